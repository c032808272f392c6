"""Unrolled networks with a low-rank step, and what it takes to train and judge one.

Import the modules by name. Those marked need the framework they are named after; the
others run on the arrays of any.

===================  ============================================================
``operators``        forward operators and their algebra
``regularisers``     values and proximal operators of what is known of images
``schemes``          one iteration of each algorithm
``solve``            classical reconstruction by them
``completion``       low-rank completion by them
``networks``         the networks, before any framework: recipes of a cell
``torch``            the networks as PyTorch modules (torch)
``keras``            the networks as Keras 3 models (keras)
``manual``           networks that learn without automatic differentiation
``weights``          one file of weights for all of these
``fill``             a first estimate by normalised convolution
``data``             pictures, image series and k-space data, read from files
``phantom``          a beating heart made of formulas
``coils``            coil sensitivities by ESPIRiT
``masks``            which pixels, or points of k-space, are sampled
``metrics``          SNR, normalised error, PSNR and SSIM
``training``         training of TLR-Net on photographs (torch)
``panel``            the picture that compares reconstructions
``demo``             all of it, from photographs to a table and a picture (torch)
===================  ============================================================
"""
