"""Unrolled networks with a low-rank step, and what it takes to train and judge one.

Import the modules by name; only those marked need PyTorch.

=====================  ==========================================================
``data``               photographs that come with packages, and patches of them
``masks``              which pixels are sampled
``metrics``            PSNR and SSIM
``operators``          forward operators and their algebra
``regularisers``       values and proximal operators of what is known of images
``schemes``            one iteration of each algorithm
``solve``              classical reconstruction by them
``completion``         low-rank completion by them
``fill`` (torch)       a first estimate by normalised convolution
``lowrank`` (torch)    singular value thresholding of feature maps
``tlrnet`` (torch)     the network
``training`` (torch)   its training, and reconstruction with it
``panel``              the picture that compares reconstructions
``demo`` (torch)       all of it, from photographs to a table and a picture
=====================  ==========================================================
"""
