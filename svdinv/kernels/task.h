#pragma once
/* Arguments of kernels.  T is the real type, or void where nothing is read. */
#include <stdint.h>

/* Matrices of a batch in memory: strides in elements of T (complex ones are pairs). */
typedef struct {
  T *data;
  int64_t matrix, row, column;
} Array;

/* Arguments of a kernel, whose comment states which array is which. */
typedef struct {
  Array array[12];
  double number[2];
  int32_t *failed; /* a number for each matrix */
  int64_t m, n, adjoint; /* with `adjoint`, matrices are read and written as adjoints */
} Task;
