#pragma once
/* The part of a call that is the same for all arrays of certain types, shapes and strides, as
 * `_CALL` of svdinv/kernels/__init__.py packs it. */
#include <stdint.h>

#define ARRAYS 12

/* In the order of `KINDS` in svdinv/kernels/__init__.py. */
enum {
  SVD,
  EIGH,
  SPECTRAL, /* these three may fail */
  MAP,
  DERIVATIVE,
  SVD_PULL,
  EIGH_PULL,
  CLUSTERS,
  HERMITIAN,
  PRODUCT,
  ALIGN, /* these two work on points */
  ALIGN_PULL,
  TALL_EIGEN,
  TALL_GRAM, /* these two work on blocks of rows */
  TALL_PRODUCT,
  KINDS
};

typedef struct {
  int64_t kind;
  int64_t type; /* 0 to 3 for f32, f64, c64 and c128 */
  int64_t batch, m, n;
  double number[2];
  int64_t stride[ARRAYS][3]; /* of a matrix, a row and a column, in real numbers */
} Call;

/* Run a kernel over a batch of matrices of shape (m, n), on at most so many threads; 0 is
 * the number that `svdinv_select` set.  Returns the number of matrices that were not
 * decomposed, or -1 without memory. */
int svdinv_run(const Call *call, void *const address[ARRAYS], int most_threads);
