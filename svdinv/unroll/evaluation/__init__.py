"""Networks and classical methods at work, and how well they do."""
