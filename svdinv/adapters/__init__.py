"""svdinv's priors and operators as objects of other libraries, one module for each."""
