/* The SVD of tall matrices of single precision by their Gram matrix in double precision.
 *
 * Singular values are accurate to single precision, and so are the vectors of values down to
 * 1e-4 of the largest.
 */
#include "lanes.h"
#include "tall.h"

#if DOUBLE

typedef void Run(const Task *, int64_t, int64_t, void *);
Run NAME(eigh);
int64_t NAME(decomposition_memory)(int, int);

/* Memory that a call needs, in bytes. */
int64_t NAME(tall_eigen_memory)(int m, int n) {
  (void)m;
  const int64_t lanes = (2 * n * n + n) * (int64_t)sizeof(E);
  return lanes + NAME(decomposition_memory)(n, n);
}

INLINE float *at(const Array *A, int64_t matrix, int64_t row, int64_t column) {
  return (float *)A->data + matrix * A->matrix + row * A->row + column * A->column;
}

/* Singular values and right singular vectors from the results of `tall_gram`.  Arrays: 0
 * these, 1 S and 2 V, of single precision, 3 V diag(1 / s), in which values s that the Gram
 * matrix loses are replaced by their upper bound. */
void NAME(tall_eigen)(const Task *task, int64_t begin, int64_t end, void *work) {
  const int n = (int)task->n;
  const ptrdiff_t nn = (ptrdiff_t)n * n, row = (ptrdiff_t)n * PARTS;
  const int64_t blocks = TALL_BLOCKS(task->m);
  const Array *in = task->array;
  T *N = (T *)((char *)work + NAME(decomposition_memory)(n, n)); /* which is aligned */
  T *Vt = N + LANES * nn * PARTS, *w = Vt + LANES * nn * PARTS;
  int32_t failed[LANES];
  for (; begin < end; begin += LANES) {
    const int64_t count = end - begin < LANES ? end - begin : LANES;
    memset(N, 0, (size_t)(count * nn) * PARTS * sizeof *N);
    for (int64_t t = 0; t < count; t++)
      for (int64_t b = 0; b < blocks; b++) {
        const T *part = in[0].data + ((begin + t) * blocks + b) * in[0].matrix;
        for (ptrdiff_t i = 0; i < n; i++)
          for (ptrdiff_t j = 0; j < row; j++)
            N[(t * n + i) * row + j] += part[i * in[0].row + j];
      }
    const Task eigh = {.array = {{N, nn * PARTS, row, PARTS}, {w, n, 0, 1},
                                 {Vt, nn * PARTS, row, PARTS}},
                       .failed = failed, .m = n, .n = n};
    NAME(eigh)(&eigh, 0, count, work);
    for (int64_t t = 0; t < count; t++) {
      const T *values = w + t * n;
      const T top = failed[t] ? (T)__builtin_nan("") : SQRT(values[n - 1]);
      const T lost = top * SQRT(2 * (T)EPS * n);
      for (int j = 0; j < n; j++) { /* the largest first */
        const T *v = Vt + (t * n + n - 1 - j) * row, value = values[n - 1 - j];
        const T s = top != top ? top : value > 0 ? SQRT(value) : 0;
        const T inverse = top == 0 ? 0 : 1 / (s > lost ? s : lost);
        T *scaled = in[3].data + (begin + t) * in[3].matrix + j * in[3].column;
        *at(&in[1], begin + t, 0, j) = (float)s;
        for (int i = 0; i < n; i++)
          for (int part = 0; part < PARTS; part++) {
            at(&in[2], begin + t, i, j)[part] = (float)v[i * PARTS + part];
            scaled[i * in[3].row + part] = v[i * PARTS + part] * inverse;
          }
      }
    }
  }
}

#endif
