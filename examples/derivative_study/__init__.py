"""A study of derivatives: one network, trained through each of them."""
