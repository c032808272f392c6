"""Unrolled networks with a low-rank step, and what it takes to train and judge one.

Import the modules by name. Those marked need the framework; the others work on the
arrays of any, or on NumPy's alone.

=====================  ==========================================================
``networks``           recipes: what the networks are, before any framework
``torch`` (torch)      the networks as PyTorch modules
``keras`` (keras)      the networks as Keras models
``manual``             unrolled solvers that learn without a framework
``weights``            weights and recipe in a safetensors file
``operators``          forward operators: sampling, MRI with coils, blur, matrices
``priors``       nuclear norms, sparsity, total variation
``algorithms``            an iteration of ISTA, FISTA, ADMM, PDHG and others
``solve``              classical reconstruction with these
``completion``         classical low-rank completion of photographs
``arrays``             the functions that fit an array, of whatever framework
``data``               pictures, image series and k-space data, read from files
``phantom``            a beating heart made of formulas
``coils``              coil sensitivities by ESPIRiT
``masks``              which pixels, or points of k-space, are sampled
``metrics``            SNR, normalised error, PSNR and SSIM
``fill``               a first estimate by normalised convolution
``pretrained``         weights that come with the package
``jobs``               what the command line does: training, evaluation, pictures
=====================  ==========================================================
"""
