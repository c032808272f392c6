"""Unrolled networks with a low-rank step, and what it takes to train and judge one.

Import the modules by name; only those marked need PyTorch.

=====================  ==========================================================
``data``               pictures, image series and k-space data, read from files
``phantom``            a beating heart made of formulas
``coils``              coil sensitivities by ESPIRiT
``masks``              which pixels, or points of k-space, are sampled
``metrics``            SNR, normalised error, PSNR and SSIM
``completion``         classical low-rank completion
``fill`` (torch)       a first estimate by normalised convolution
``lowrank`` (torch)    singular value thresholding of feature maps
``tlrnet`` (torch)     the network
``training`` (torch)   its training, and reconstruction with it
``panel``              the picture that compares reconstructions
``demo`` (torch)       all of it, from photographs to a table and a picture
=====================  ==========================================================
"""
