"""Unrolled networks with a low-rank step, their training and evaluation.

Import the modules by name. Those with a framework in parentheses need it; the others
work on arrays of any framework, or on NumPy arrays only.

======================  ==========================================================
``problem``             data, operator, data fidelity and truth, as one object
``operators``           forward operators: sampling, MRI with coils, blur, matrices
``fidelity``            data fidelities: least squares, counts
``priors``              nuclear norms, sparsity, total variation
``algorithms``          ISTA, FISTA, ADMM, PDHG and others; `solve`
``networks``            recipes: framework-independent definitions of networks
``torch`` (torch)       the networks as PyTorch modules
``keras`` (keras)       the networks as Keras models
``manual``              unrolled solvers that learn without a framework
``pretrained``          weights included in the package
``formats``             readers and writers of files of scans and measured data
``data``                pictures, photographs, sampling masks and noise
``metrics``             SNR, normalised error, PSNR and SSIM
``tasks``               colour, cine, tomography, impedance: a folder for each
``inference`` (torch)   a trained network applied to a problem
``training`` (torch)    configurations, the loop, losses and checkpoints
``untrained`` (torch)   networks fitted to one measurement, and when to stop
``evaluation`` (torch)  comparison of networks and classical methods
``display``             pictures, panels, animations and tables
``arrays``              functions for arrays of any framework
======================  ==========================================================
"""
