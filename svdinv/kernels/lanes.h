#pragma once
/* One matrix of a batch in each lane of a vector: the types and functions of all kernels.
 *
 * Compiled once for every instruction set and element type: LANE_BYTES is the width
 * of a vector, T the real type, COMPLEX 0 or 1, NAME(x) adds the suffix to a symbol.
 * With a width of 0, they are compiled for one matrix alone, whose columns are in the lanes.
 */
#include <float.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define CAT_(a, b) a##_##b
#define CAT(a, b) CAT_(a, b)
#define NAME(x) CAT(x, SUFFIX)

#if DOUBLE
typedef double T;
typedef int64_t Int;
typedef uint64_t UInt;
#define EPS (DBL_EPSILON / 2)
#define TINY 1e-290
#define SMALLEST 1e-300
#define BIG 1e300
#define BIAS 1023
#define MANTISSA 52
#define SQRT __builtin_sqrt
#else
typedef float T;
typedef int32_t Int;
typedef uint32_t UInt;
#define EPS (FLT_EPSILON / 2)
#define TINY 1e-30f
#define SMALLEST 1e-35f
#define BIG 1e35f
#define BIAS 127
#define MANTISSA 23
#define SQRT __builtin_sqrtf
#endif

#if LANE_BYTES == 0 /* one matrix alone */
#define ONE 1
#undef LANE_BYTES
#ifdef ONE_BYTES
#define LANE_BYTES ONE_BYTES
#else
#define LANE_BYTES (DOUBLE ? 8 : 4)
#endif
#else
#define ONE 0
#endif

#define GROUPS (2 - ONE) /* worked on together in the QR iteration */
#define LANES ((int)(LANE_BYTES / sizeof(T)))
#define PARTS (COMPLEX + 1)
#define LEAD(n) ((n) | 1) /* no power of two: rows would share a place in the cache */
#define STRIP 4 /* vectors or components worked on at a time */

typedef T V __attribute__((vector_size(LANE_BYTES)));
typedef Int I __attribute__((vector_size(LANE_BYTES)));
typedef struct { V part[PARTS]; } E;
#if ONE
/* Columns of a matrix, or components of a vector, side by side. */
typedef T Row __attribute__((vector_size(32)));
#define COLUMNS ((int)(sizeof(Row) / sizeof(T)))
#endif

#define INLINE static inline __attribute__((always_inline))
#define OFTEN static __attribute__((noinline, unused)) /* called from many places */
#define SELECT(mask, a, b) ((V)(((I)(a) & (mask)) | ((I)(b) & ~(mask))))
#define SELECT_INT(mask, a, b) (((a) & (mask)) | ((b) & ~(mask)))

INLINE V fill(T x) { return (V){0} + x; }
INLINE I fill_int(Int x) { return (I){0} + x; }

/* 2^k as a number, for |k| < BIAS. */
INLINE T power_of_two(int k) {
  Int bits = (Int)(k + BIAS) << MANTISSA;
  T x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

INLINE V root(V x) {
  V r;
  for (int t = 0; t < LANES; t++) r[t] = SQRT(x[t]);
  return r;
}

INLINE V magnitude(V x) { return (V)((I)x & (Int)(((UInt)-1) >> 1)); }
INLINE V greater(V a, V b) { I m = a > b; return SELECT(m, a, b); }

INLINE int any(I mask) {
  Int some = 0;
  for (int t = 0; t < LANES; t++) some |= mask[t];
  return some != 0;
}

INLINE int largest(I x) {
  Int m = x[0];
  for (int t = 1; t < LANES; t++) m = x[t] > m ? x[t] : m;
  return (int)m;
}

INLINE int least(I x) {
  Int m = x[0];
  for (int t = 1; t < LANES; t++) m = x[t] < m ? x[t] : m;
  return (int)m;
}

/* ---- elements, real or complex ------------------------------------------------ */

INLINE V square(E x) {
  V s = x.part[0] * x.part[0];
#if COMPLEX
  s += x.part[1] * x.part[1];
#endif
  return s;
}

INLINE E scaled(E x, V by) {
  for (int p = 0; p < PARTS; p++) x.part[p] *= by;
  return x;
}

INLINE E times(E x, E y) {
#if COMPLEX
  return (E){{x.part[0] * y.part[0] - x.part[1] * y.part[1],
              x.part[0] * y.part[1] + x.part[1] * y.part[0]}};
#else
  return (E){{x.part[0] * y.part[0]}};
#endif
}

/* s += conj(x) y, in as many fused operations as there are products. */
INLINE void add_inner(E *s, E x, E y) {
#if COMPLEX
  s->part[0] += x.part[0] * y.part[0];
  s->part[0] += x.part[1] * y.part[1];
  s->part[1] += x.part[0] * y.part[1];
  s->part[1] -= x.part[1] * y.part[0];
#else
  s->part[0] += x.part[0] * y.part[0];
#endif
}

/* s -= x y */
INLINE void subtract(E *s, E x, E y) {
#if COMPLEX
  s->part[0] -= x.part[0] * y.part[0];
  s->part[0] += x.part[1] * y.part[1];
  s->part[1] -= x.part[0] * y.part[1];
  s->part[1] -= x.part[1] * y.part[0];
#else
  s->part[0] -= x.part[0] * y.part[0];
#endif
}

INLINE E conjugate(E x) {
#if COMPLEX
  x.part[1] = -x.part[1];
#endif
  return x;
}

INLINE E sum(E x, E y) {
  for (int p = 0; p < PARTS; p++) x.part[p] += y.part[p];
  return x;
}

INLINE E difference(E x, E y) {
  for (int p = 0; p < PARTS; p++) x.part[p] -= y.part[p];
  return x;
}

INLINE E divided(E x, V by) {
  for (int p = 0; p < PARTS; p++) x.part[p] /= by;
  return x;
}

INLINE E choose(I mask, E x, E y) {
  for (int p = 0; p < PARTS; p++) x.part[p] = SELECT(mask, x.part[p], y.part[p]);
  return x;
}

/* x / y where `where` holds, 0 elsewhere. */
INLINE V safe_quotient(V x, V y, I where) {
  return SELECT(where, x / SELECT(where, y, fill(1)), (V){0});
}

/* |x|, whose square may over- or underflow. */
INLINE V absolute(E x) {
#if COMPLEX
  V a = magnitude(x.part[0]), b = magnitude(x.part[1]);
  V high = greater(a, b), low = a + b - high;
  V ratio = safe_quotient(low, high, high > (V){0});
  return high * root(1 + ratio * ratio);
#else
  return magnitude(x.part[0]);
#endif
}

/* ---- in and out of the lanes ------------------------------------------------------- */

#include "task.h"

/* Transpose LANES vectors: exchange blocks off the diagonal, the largest first. */
#define UPPER(t, d) ((t) & (d) ? LANES + (t) - (d) : (t))
#define LOWER(t, d) ((t) & (d) ? LANES + (t) : (t) + (d))
#define OF_2(F, t, d) F(t, d), F(t + 1, d)
#define OF_4(F, t, d) OF_2(F, t, d), OF_2(F, t + 2, d)
#define OF_8(F, t, d) OF_4(F, t, d), OF_4(F, t + 4, d)
#define OF_16(F, t, d) OF_8(F, t, d), OF_8(F, t + 8, d)
#if LANE_BYTES == 64 && !DOUBLE
#define OF_ALL OF_16
#elif LANE_BYTES == 64 || (LANE_BYTES == 32 && !DOUBLE)
#define OF_ALL OF_8
#elif LANE_BYTES == 32 || !DOUBLE
#define OF_ALL OF_4
#else
#define OF_ALL OF_2
#endif
#define EXCHANGE(d)                                                               \
  if (d < LANES)                                                                  \
    for (int i = 0; i < LANES; i++)                                               \
      if (!(i & d)) {                                                             \
        V x = r[i], y = r[i + d];                                                 \
        r[i] = __builtin_shufflevector(x, y, OF_ALL(UPPER, 0, (d % LANES)));      \
        r[i + d] = __builtin_shufflevector(x, y, OF_ALL(LOWER, 0, (d % LANES)));  \
      }

#if LANE_BYTES <= 8
INLINE void transpose(V *r) { (void)r; }
#else
INLINE void transpose(V *r) {
  EXCHANGE(8)
  EXCHANGE(4)
  EXCHANGE(2)
  EXCHANGE(1)
}
#endif

static const T nothing[LANES] = {0};

/* Read `count` numbers for each lane from its address in `from`, zeros if that is 0.  Every PARTS
 * of them are an element of `to`, whose elements are `step` apart. */
OFTEN void load_run(E *to, ptrdiff_t step, const T *const *from, ptrdiff_t count,
                    int conj) {
  ptrdiff_t q = 0;
  for (; LANES > 1 && q + LANES <= count; q += LANES) {
    V r[LANES];
    for (int t = 0; t < LANES; t++)
      memcpy(&r[t], from[t] ? from[t] + q : nothing, sizeof(V));
    transpose(r);
    for (int t = 0; t < LANES; t++)
      to[(q + t) / PARTS * step].part[t % PARTS] = conj && t % PARTS ? -r[t] : r[t];
  }
  for (; q < count; q++) {
    V x;
    for (int t = 0; t < LANES; t++) x[t] = from[t] ? from[t][q] : 0;
    to[q / PARTS * step].part[q % PARTS] = conj && q % PARTS ? -x : x;
  }
}

/* Write them.  `more`, zero or NaN, is added, so that zeros lose their sign, which would depend
 * on the other lanes. */
OFTEN void unload_run(const E *x, ptrdiff_t step, T *const *to, ptrdiff_t count,
                      int conj, V more) {
  ptrdiff_t q = 0;
  for (; LANES > 1 && q + LANES <= count; q += LANES) {
    V r[LANES];
    for (int t = 0; t < LANES; t++) {
      V v = x[(q + t) / PARTS * step].part[t % PARTS];
      r[t] = (conj && t % PARTS ? -v : v) + more;
    }
    transpose(r);
    for (int t = 0; t < LANES; t++)
      if (to[t]) memcpy(to[t] + q, &r[t], sizeof(V));
  }
  for (; q < count; q++) {
    V v = x[q / PARTS * step].part[q % PARTS];
    v = (conj && q % PARTS ? -v : v) + more;
    for (int t = 0; t < LANES; t++)
      if (to[t]) to[t][q] = v[t];
  }
}

/* Read numbers one by one, with any strides. */
OFTEN void load_scattered(E *x, const T *const *from, ptrdiff_t lead, ptrdiff_t m,
                          ptrdiff_t n, ptrdiff_t row, ptrdiff_t column, int conj) {
  for (ptrdiff_t i = 0; i < m; i++)
    for (ptrdiff_t j = 0; j < n; j++)
      for (int p = 0; p < PARTS; p++) {
        V v;
        for (int t = 0; t < LANES; t++)
          v[t] = from[t] ? from[t][i * row + j * column + p] : 0;
        x[i * lead + j].part[p] = conj && p ? -v : v;
      }
}

OFTEN void unload_scattered(const E *x, T *const *to, ptrdiff_t lead, ptrdiff_t m,
                            ptrdiff_t n, ptrdiff_t row, ptrdiff_t column, int conj) {
  for (ptrdiff_t i = 0; i < m; i++)
    for (ptrdiff_t j = 0; j < n; j++)
      for (int p = 0; p < PARTS; p++) {
        V v = x[i * lead + j].part[p] + 0;
        if (conj && p) v = 0 - v;
        for (int t = 0; t < LANES; t++)
          if (to[t]) to[t][i * row + j * column + p] = v[t];
      }
}

INLINE void addresses(T **at, const Array *A, int64_t begin, int64_t end) {
  for (int t = 0; t < LANES; t++)
    at[t] = begin + t < end ? A->data + (begin + t) * A->matrix : 0;
}

/* Read the matrices begin <= b < end, shape (m, n); unused lanes become zero. */
OFTEN void load(E *x, ptrdiff_t lead, const Array *A, int64_t begin, int64_t end,
                ptrdiff_t m, ptrdiff_t n, int conj) {
  T *at[LANES];
  addresses(at, A, begin, end);
  const T *const *from = (const T *const *)at;
  const int rows = A->column == PARTS;
  if (rows && A->row == n * PARTS && lead == n)
    load_run(x, 1, from, m * n * PARTS, conj);
  else if (rows || A->row == PARTS)
    for (ptrdiff_t i = 0; i < (rows ? m : n); i++) {
      if (rows) load_run(x + i * lead, 1, from, n * PARTS, conj);
      else load_run(x + i, lead, from, m * PARTS, conj);
      for (int t = 0; t < LANES; t++)
        if (at[t]) at[t] += rows ? A->row : A->column;
    }
  else load_scattered(x, from, lead, m, n, A->row, A->column, conj);
}

OFTEN void unload(const E *x, ptrdiff_t lead, const Array *A, int64_t begin, int64_t end,
                  ptrdiff_t m, ptrdiff_t n, int conj) {
  T *to[LANES];
  const V zero = {0};
  addresses(to, A, begin, end);
  const int rows = A->column == PARTS;
  if (rows && A->row == n * PARTS && lead == n)
    unload_run(x, 1, to, m * n * PARTS, conj, zero);
  else if (rows || A->row == PARTS)
    for (ptrdiff_t i = 0; i < (rows ? m : n); i++) {
      if (rows) unload_run(x + i * lead, 1, to, n * PARTS, conj, zero);
      else unload_run(x + i, lead, to, m * PARTS, conj, zero);
      for (int t = 0; t < LANES; t++)
        if (to[t]) to[t] += rows ? A->row : A->column;
    }
  else unload_scattered(x, to, lead, m, n, A->row, A->column, conj);
}

OFTEN void load_reals(V *x, const Array *A, int64_t begin, int64_t end, int n) {
  for (int t = 0; t < LANES; t++)
    for (int i = 0; i < n; i++)
      x[i][t] = begin + t < end ? A->data[(begin + t) * A->matrix + i * A->column] : 0;
}

OFTEN void unload_reals(const V *x, const Array *A, int64_t begin, int64_t end, int n) {
  for (int t = 0; t < LANES && begin + t < end; t++)
    for (int i = 0; i < n; i++)
      A->data[(begin + t) * A->matrix + i * A->column] = x[i][t] + 0;
}
