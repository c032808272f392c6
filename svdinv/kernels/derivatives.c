/* Spectral maps and pullbacks in one pass over the memory.
 *
 * The formulas are those of svdinv/core: spectral.py, svd.py and eigh.py, which cite
 * their sources.  Matrices are tall, (m, n) with m >= n: wide ones come as adjoints.
 */
#include "functions.h"

/* A factor of a product, with any strides: all take the same time, because every element is a
 * vector. */
typedef struct {
  const E *data;
  ptrdiff_t row, column;
} Factor;

#define PLAIN(x, lead) ((Factor){x, lead, 1})
#define TURNED(x, lead) ((Factor){x, 1, lead})

#if ONE
#define TERMS 128 /* rows of B that fit into the first cache */

/* Rows of C: the terms of a sum in the same order as with a matrix in each lane. */
INLINE void add_terms(E *C, ptrdiff_t lead, const E *a, Factor A, int conj, const Row *b,
                      int rows, int terms, int wide, int more) {
  Row s[4][PARTS] = {{{0}}};
  for (int i = 0; more && i < rows; i++)
    for (int j = 0; j < wide; j++)
      for (int p = 0; p < PARTS; p++) s[i][p][j] = C[i * lead + j].part[p][0];
  for (int k = 0; k < terms; k++, a += A.column, b += PARTS)
    for (int i = 0; i < rows; i++) {
      const E x = a[i * A.row];
      s[i][0] += x.part[0][0] * b[0];
#if COMPLEX
      const T y = conj ? x.part[1][0] : -x.part[1][0];
      s[i][0] += y * b[1];
      s[i][1] += x.part[0][0] * b[1];
      s[i][1] -= y * b[0];
#else
      (void)conj;
#endif
    }
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < wide; j++)
      for (int p = 0; p < PARTS; p++) C[i * lead + j].part[p][0] = s[i][p][j];
}

/* C = A B, shape (m, n) with k terms, of conj(A) with `conj`. */
INLINE void multiply(E *restrict C, Factor A, int conj, Factor B, int m, int k, int n) {
  Row b[TERMS * PARTS];
  for (int j = 0; j < n; j += COLUMNS) {
    const int wide = n - j < COLUMNS ? n - j : COLUMNS;
    for (int from = 0; from < k; from += TERMS) {
      const int terms = k - from < TERMS ? k - from : TERMS;
      for (int q = 0; q < terms; q++)
        for (int p = 0; p < PARTS; p++) {
          const E *x = B.data + (from + q) * B.row + j * B.column;
          b[q * PARTS + p] = (Row){0};
          for (int c = 0; c < wide; c++) b[q * PARTS + p][c] = x[c * B.column].part[p][0];
        }
      const E *a = A.data + from * A.column;
      E *c = C + j;
      int i = 0;
      for (; i + 4 <= m; i += 4, a += 4 * A.row, c += 4 * (ptrdiff_t)n)
        add_terms(c, n, a, A, conj, b, 4, terms, wide, from);
      for (; i < m; i++, a += A.row, c += n)
        add_terms(c, n, a, A, conj, b, 1, terms, wide, from);
    }
  }
}
#else
INLINE void add_product(E *s, E a, int conj, E b) {
  if (conj) add_inner(s, a, b);
  else add_inner(s, conjugate(a), b);
}

/* C = A B, shape (m, n) with k terms, of conj(A) with `conj`. */
INLINE void multiply(E *restrict C, Factor A, int conj, Factor B, int m, int k, int n) {
  for (int j = 0; j < n; j += 4) {
    const int wide = n - j < 4 ? n - j : 4;
    int i = 0;
    if (wide == 4)
      for (; i + 2 <= m; i += 2) {
        E s[8] = {0};
        for (int p = 0; p < k; p++) {
          const E *a = A.data + i * A.row + p * A.column;
          const E *b = B.data + p * B.row + j * B.column;
          for (int q = 0; q < 4; q++) {
            add_product(&s[q], a[0], conj, b[q * B.column]);
            add_product(&s[4 + q], a[A.row], conj, b[q * B.column]);
          }
        }
        for (int q = 0; q < 4; q++) {
          C[(ptrdiff_t)i * n + j + q] = s[q];
          C[(ptrdiff_t)(i + 1) * n + j + q] = s[4 + q];
        }
      }
    for (; i < m; i++)
      for (int q = 0; q < wide; q++) {
        E s = {0};
        for (int p = 0; p < k; p++)
          add_product(&s, A.data[i * A.row + p * A.column], conj,
                      B.data[p * B.row + (j + q) * B.column]);
        C[(ptrdiff_t)i * n + j + q] = s;
      }
  }
}
#endif

static void product(E *restrict C, Factor A, Factor B, int m, int k, int n) {
  multiply(C, A, 0, B, m, k, n);
}

/* C = conj(A) B */
static void conjugate_product(E *restrict C, Factor A, Factor B, int m, int k, int n) {
  multiply(C, A, 1, B, m, k, n);
}

/* Memory that a call needs, in bytes. */
int64_t NAME(derivative_memory)(int m, int n) {
  return (PARTS * (3 * (int64_t)m * n + 4 * (int64_t)n * n) + 2 * (int64_t)n * n +
          (4 + RULE_VALUES) * n) * LANE_BYTES;
}

/* U diag(y) V^H with y = f(s).  Arrays: 0 U, 1 s, 2 V^H, 3 tau or none, 4 result.  If f is
 * GIVEN, 1 is y, or none for 1. */
void NAME(map)(const Task *task, int64_t begin, int64_t end, void *work) {
  const int m = (int)task->m, n = (int)task->n;
  const ptrdiff_t mn = (ptrdiff_t)m * n;
  const Array *in = task->array;
  E *U = work, *F = U + mn, *Vh = F + mn;
  V *y = (V *)(Vh + (ptrdiff_t)n * n);
  const int given = FUNCTION(task) == GIVEN;
  for (; begin < end; begin += LANES) {
    load(U, n, &in[0], begin, end, m, n, task->adjoint);
    load(Vh, n, &in[2], begin, end, n, n, task->adjoint);
    if (in[1].data) load_reals(y, &in[1], begin, end, n);
    else for (int i = 0; i < n; i++) y[i] = fill(1);
    if (!given) function_of(y, y, task, &in[3], begin, end, n);
    for (int i = 0; i < n; i++)
      for (int j = 0; j < n; j++) Vh[i * n + j] = scaled(Vh[i * n + j], y[i]);
    product(F, PLAIN(U, n), PLAIN(Vh, n), m, n, n);
    unload(F, n, &in[4], begin, end, m, n, task->adjoint);
  }
}

extern const int NAME(lanes);
void NAME(svd)(const Task *, int64_t, int64_t, void *);
int64_t NAME(decomposition_memory)(int, int);

/* Numbers of the factors of a matrix. */
#define FACTORS(m, n) (PARTS * (int64_t)((m) + (n)) * (n) + (n))

/* Memory that a call of `spectral` needs, in bytes. */
int64_t NAME(spectral_memory)(int m, int n) {
  return NAME(decomposition_memory)(m, n) + NAME(derivative_memory)(m, n) +
         NAME(lanes) * FACTORS(m, n) * (int64_t)sizeof(T);
}

/* U diag(f(s)) V^H of A = U diag(s) V^H, whose factors stay in the caches.
 * Arrays: 0 A, 1 tau or none, 2 result. */
void NAME(spectral)(const Task *task, int64_t begin, int64_t end, void *work) {
  const int m = (int)task->m, n = (int)task->n;
  const int64_t nn = PARTS * (int64_t)n * n, mn = PARTS * (int64_t)m * n;
  char *const after = (char *)work + NAME(decomposition_memory)(m, n);
  T *U = (T *)(after + NAME(derivative_memory)(m, n));
  T *Vh = U + NAME(lanes) * mn, *s = Vh + NAME(lanes) * nn;
  for (; begin < end; begin += NAME(lanes)) {
    const int64_t count = end - begin < NAME(lanes) ? end - begin : NAME(lanes);
    const Array in = task->array[0], tau = task->array[1], out = task->array[2];
    const Task decomposition = {
        .m = m, .n = n, .failed = task->failed + begin,
        .array = {{in.data + begin * in.matrix, in.matrix, in.row, in.column},
                  {s, n, 0, 1},
                  {U, mn, m * PARTS, PARTS},
                  {Vh, nn, n * PARTS, PARTS}}};
    NAME(svd)(&decomposition, 0, count, work);
    Array level = tau;
    if (tau.data) level.data += begin * tau.matrix;
    T *values = FUNCTION(task) == GIVEN ? 0 : s;
    const Task map = {
        .m = m, .n = n, .number = {task->number[0], task->number[1]},
        .array = {{U, mn, PARTS, m * PARTS}, {values, n, 0, 1},
                  {Vh, nn, n * PARTS, PARTS},
                  level,
                  {out.data + begin * out.matrix, out.matrix, out.row, out.column}}};
    NAME(map)(&map, 0, count, after);
  }
}

/* For tau relative to the largest s: add the cotangent through that value to the diagonal of B,
 * shared by values equal to it, and multiply the cotangent of tau by it. */
static void through_largest(E *B, V *gtau, const V *s, const Array *tau, int64_t begin,
                            int64_t end, int n) {
  const V level = (T)ROUNDING * s[0];
  V share, number = {0};
  load_reals(&share, tau, begin, end, 1);
  for (int i = 0; i < n; i++) number += SELECT(s[i] < s[0] - level, (V){0}, fill(1));
  share *= *gtau;
  share = SELECT(s[0] > level, share / number, 0 * share); /* NaN stays */
  for (int i = 0; i < n; i++)
    B[i * n + i].part[0] += SELECT(s[i] < s[0] - level, 0 * share, share);
  *gtau *= s[0];
}

/* Derivative of U diag(f(s)) V^H in A, which is its own transpose, and in tau:
 *
 *   U [D- o herm(K) + D+ o skew(K) + diag(df/dtau dtau)] V^H
 *       + (X V - U K) diag(phi) V^H
 *
 * with K = U^H X V, the last term where something may lie outside the range of U.  With a
 * relative tau, X is the cotangent of the result.  Arrays: 0 U, 1 V^H, 2 X, 3 s, 4 tau or
 * none, 5 dtau or none, 6 result, 7 cotangent of tau or none.  If f is GIVEN, a step
 * function, 4 is y or none for 1.  If it is SAMPLED, 4 is y, 5 is D-, 7 the real diagonal
 * of K, and the derivative is that of U and V alone. */
void NAME(derivative)(const Task *task, int64_t begin, int64_t end, void *work) {
  const int m = (int)task->m, n = (int)task->n, turn = (int)task->adjoint;
  const ptrdiff_t mn = (ptrdiff_t)m * n, nn = (ptrdiff_t)n * n;
  const Array *in = task->array;
  E *U = work, *X = U + mn, *XV = X + mn, *Vh = XV + mn, *K = Vh + nn, *B = K + nn;
  V *minus = (V *)(B + 2 * nn), *plus = minus + nn, *s = plus + nn, *y = s + n;
  V *phi = y + n, *slope = phi + n;
  const int f = FUNCTION(task), given = f == GIVEN || f == SAMPLED;
  const int outside = m > n || !needs_unitary(task);
  for (; begin < end; begin += LANES) {
    load(U, n, &in[0], begin, end, m, n, turn);
    load(Vh, n, &in[1], begin, end, n, n, turn);
    load(X, n, &in[2], begin, end, m, n, turn);
    load_reals(s, &in[3], begin, end, n);
    V tau = {0};
    if (!given) tau = function_of(y, s, task, &in[4], begin, end, n);
    else if (in[4].data) load_reals(y, &in[4], begin, end, n);
    else for (int i = 0; i < n; i++) y[i] = fill(1);
    for (int i = 0; f == SAMPLED && i < n; i++) {
      Array row = in[5];
      row.data += i * row.row;
      load_reals(minus + i * n, &row, begin, end, n);
    }
    divided_differences(minus, plus, phi, slope, s, y, tau, task, !outside, n);
    V dtau = {0}, gtau = {0};
    if (in[5].data && !given) load_reals(&dtau, &in[5], begin, end, 1);
    /* V = (V^H)^H, and X V = conj(conj(X) (V^H)^T) */
    conjugate_product(XV, PLAIN(X, n), TURNED(Vh, n), m, n, n);
    for (ptrdiff_t i = 0; i < mn; i++) XV[i] = conjugate(XV[i]);
    conjugate_product(K, TURNED(U, n), PLAIN(XV, n), n, m, n);
    for (int i = 0; i < n; i++)
      for (int j = 0; j < n; j++) {
        V even = minus[i * n + j] + plus[i * n + j];
        V odd = minus[i * n + j] - plus[i * n + j];
        if (outside) even -= 2 * phi[j];
        E x = scaled(K[i * n + j], even * (T)0.5);
        B[i * n + j] = sum(x, scaled(conjugate(K[j * n + i]), odd * (T)0.5));
        if (i != j) continue;
        y[i] = K[i * n + i].part[0];
        B[i * n + j].part[0] += slope[i] * dtau;
        gtau += slope[i] * y[i];
      }
    if (IS_RELATIVE(task)) through_largest(B, &gtau, s, &in[4], begin, end, n);
    if (in[7].data) unload_reals(given ? y : &gtau, &in[7], begin, end, given ? n : 1);
    product(X, PLAIN(U, n), PLAIN(B, n), m, n, n);
    if (outside)
      for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++)
          X[i * n + j] = sum(X[i * n + j], scaled(XV[i * n + j], phi[j]));
    product(XV, PLAIN(X, n), PLAIN(Vh, n), m, n, n);
    unload(XV, n, &in[6], begin, end, m, n, turn);
  }
}

/* Divide values by the power of two nearest `top`, the largest modulus, or by 1 where it
 * is too small, as `scaled` in core/namespace.py; returns the divisor. */
INLINE V scale_values(V *s, V *gs, V top, int n) {
  const Int leading = (Int)1 << MANTISSA;
  const V most = fill(power_of_two(BIAS));
  const I usual = ~(top < (T)LEAST), beyond = top > most;
  const V bounded = SELECT(beyond, most, top);
  const V nearest = (V)(((I)bounded + leading / 2) & -leading);
  const V unit = SELECT(usual, nearest, fill(1));
  for (int i = 0; i < n; i++) s[i] /= unit, gs[i] *= unit;
  return unit;
}

static void load_cotangents(V *g, const Array *from, int64_t begin, int64_t end, int n) {
  if (from->data) load_reals(g, from, begin, end, n);
  else for (int i = 0; i < n; i++) g[i] = (V){0};
}

/* Middle factor for distinct values (`_distinct_block`), s sorted downwards; for others it
 * has no meaning. */
static void distinct_block(E *B, const E *M, const E *N, const V *s, const V *gs, int n) {
  for (int i = 0; i < n; i++)
    for (int j = 0; j < n; j++) {
      E x = {0};
      if (i == j) {
        x.part[0] = gs[i];
#if COMPLEX
        x.part[1] = (M[i * n + i].part[1] + N[i * n + i].part[1]) * (T)0.5 / s[i];
#endif
      } else {
        x = scaled(difference(M[i * n + j], conjugate(M[j * n + i])), s[j]);
        E y = scaled(difference(N[i * n + j], conjugate(N[j * n + i])), s[i]);
        x = scaled(difference(x, y), 1 / ((s[j] - s[i]) * (s[j] + s[i])));
      }
      B[i * n + j] = x;
    }
}

/* Cotangent of A from those of its SVD, by the consistent rule where values repeat.
 * Arrays: 0 U, 1 S, 2 V^H, 3 gU, 4 gS, 5 gV^H (of these three any may be missing), 6 the
 * result.  Numbers: the gap up to which the rule acts, the precision of cotangents. */
void NAME(svd_pull)(const Task *task, int64_t begin, int64_t end, void *work) {
  const int m = (int)task->m, n = (int)task->n, turn = (int)task->adjoint;
  const ptrdiff_t mn = (ptrdiff_t)m * n, nn = (ptrdiff_t)n * n;
  const Array *in = task->array;
  E *U = work, *G = U + mn, *X = G + mn, *Vh = X + mn, *M = Vh + nn, *N = M + nn;
  E *B = N + nn;
  V *s = (V *)(B + nn), *gs = s + n, *weight = gs + n;
  Rule rule;
  NAME(place_rule)(&rule, n, task->number[0], task->number[1], weight + n);
  rule.s = s, rule.M = M, rule.N = N;
  const int outside = m > n && in[3].data;
  for (; begin < end; begin += LANES) {
    load(U, n, &in[0], begin, end, m, n, turn);
    load(Vh, n, &in[2], begin, end, n, n, turn);
    load_reals(s, &in[1], begin, end, n);
    load_cotangents(gs, &in[4], begin, end, n);
    for (int t = 0; t < LANES; t++) /* unused lanes have no clusters */
      if (begin + t >= end)
        for (int i = 0; i < n; i++) s[i][t] = n - i;
    const V top = scale_values(s, gs, s[0], n);
    if (in[3].data) {
      load(G, n, &in[3], begin, end, m, n, turn);
      conjugate_product(M, TURNED(U, n), PLAIN(G, n), n, m, n);
    } else
      for (ptrdiff_t i = 0; i < nn; i++) M[i] = (E){0};
    if (in[5].data) {
      load(B, n, &in[5], begin, end, n, n, turn);
      conjugate_product(N, PLAIN(B, n), TURNED(Vh, n), n, n, n);
      for (ptrdiff_t i = 0; i < nn; i++) N[i] = conjugate(N[i]);
    } else
      for (ptrdiff_t i = 0; i < nn; i++) N[i] = (E){0};
    distinct_block(B, M, N, s, gs, n);
    if (NAME(find_clusters)(&rule, ROUNDING)) NAME(apply_rule)(&rule, B, gs, 0);
    if (outside) {
      NAME(outside_weight)(weight, s, G, gs, m, n);
      for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
          B[i * n + j] = difference(B[i * n + j], scaled(M[i * n + j], weight[j]));
    }
    product(X, PLAIN(U, n), PLAIN(B, n), m, n, n);
    const V inverse = 1 / top;
    for (int i = 0; i < m; i++)
      for (int j = 0; j < n; j++) {
        E x = X[i * n + j];
        if (outside) x = sum(x, scaled(G[i * n + j], weight[j]));
        X[i * n + j] = scaled(x, inverse);
      }
    product(G, PLAIN(X, n), PLAIN(Vh, n), m, n, n);
    unload(G, n, &in[6], begin, end, m, n, turn);
  }
}

/* V B V^H, made Hermitian and multiplied by `by`, in place of B; G and M are scratch. */
INLINE void hermitian_product(E *B, const E *Q, E *G, E *M, V by, int n) {
  product(G, PLAIN(Q, n), PLAIN(B, n), n, n, n);
  /* G V^H = conj(conj(G) V^T) */
  conjugate_product(M, PLAIN(G, n), TURNED(Q, n), n, n, n);
  for (int i = 0; i < n; i++)
    for (int j = 0; j < n; j++)
      B[i * n + j] = scaled(sum(conjugate(M[i * n + j]), M[j * n + i]), by);
}

/* M / 2 and M^H / 2 are what M and N are for the SVD. */
static void halve(E *M, E *N, int n) {
  const ptrdiff_t nn = (ptrdiff_t)n * n;
  for (ptrdiff_t i = 0; i < n; i++)
    for (ptrdiff_t j = 0; j < n; j++)
      N[i * n + j] = scaled(conjugate(M[j * n + i]), fill((T)0.5));
  for (ptrdiff_t i = 0; i < nn; i++) M[i] = scaled(M[i], fill((T)0.5));
}

/* Hermitian cotangent of A from those of its eigendecomposition.
 * Arrays: 0 V, 1 w, 2 gw or none, 3 gV, 4 the result.  Numbers as above.  With array 5, the
 * problem is A V = B V diag(w) with V^H B V = 1, and 5 is the cotangent of B. */
void NAME(eigh_pull)(const Task *task, int64_t begin, int64_t end, void *work) {
  const int n = (int)task->n;
  const ptrdiff_t nn = (ptrdiff_t)n * n;
  const Array *in = task->array;
  E *Q = work, *G = Q + nn, *M = G + nn, *N = M + nn, *B = N + nn;
  V *w = (V *)(B + nn), *gw = w + n;
  Rule rule;
  NAME(place_rule)(&rule, n, task->number[0], task->number[1], gw + n);
  rule.s = w, rule.M = M, rule.N = N;
  for (; begin < end; begin += LANES) {
    load(Q, n, &in[0], begin, end, n, n, 0);
    load(G, n, &in[3], begin, end, n, n, 0);
    load_reals(w, &in[1], begin, end, n);
    load_cotangents(gw, &in[2], begin, end, n);
    for (int t = 0; t < LANES; t++)
      if (begin + t >= end)
        for (int i = 0; i < n; i++) w[i][t] = i + 1;
    const V top = scale_values(w, gw, greater(magnitude(w[0]), magnitude(w[n - 1])), n);
    conjugate_product(M, TURNED(Q, n), PLAIN(G, n), n, n, n);
    halve(M, N, n);
    for (int i = 0; i < n; i++)
      for (int j = 0; j < n; j++) {
        E x = difference(M[i * n + j], N[i * n + j]);
        B[i * n + j] = i == j ? (E){{gw[i]}} : scaled(x, 1 / (w[j] - w[i]));
      }
    if (NAME(find_clusters)(&rule, -1 / (T)0)) NAME(apply_rule)(&rule, B, gw, 1);
    if (in[5].data)
      for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
          N[i * n + j] = sum(scaled(B[i * n + j], w[j]), M[i * n + j]);
    hermitian_product(B, Q, G, M, (T)0.5 / top, n);
    unload(B, n, &in[4], begin, end, n, n, 0);
    if (!in[5].data) continue;
    hermitian_product(N, Q, G, M, fill((T)-0.5), n);
    unload(N, n, &in[5], begin, end, n, n, 0);
  }
}

/* Matrix b in memory, if it is alone and contiguous there, as it would be in the lanes; else 0. */
INLINE E *in_place(const Array *A, int64_t b, int n) {
  const int plain = ONE && A->data && A->column == PARTS && A->row == n * PARTS;
  return plain ? (E *)(A->data + b * A->matrix) : 0;
}

/* Memory that a call of `clusters` needs, in bytes. */
int64_t NAME(clusters_memory)(int m, int n) {
  (void)m;
  return (3 * PARTS * (int64_t)n + 2 + RULE_VALUES) * n * LANE_BYTES;
}

/* The consistent rule in place of the plain formula, where values are close.
 * Arrays: 0 s, 1 gs, 2 U^H gU, 3 (V^H gV)^H, 4 the middle factor by the plain formula,
 * 5 the result.  Without 3, 0 are eigenvalues, 2 is V^H gV.  Numbers as above. */
void NAME(clusters)(const Task *task, int64_t begin, int64_t end, void *work) {
  const int n = (int)task->n;
  const ptrdiff_t nn = (ptrdiff_t)n * n;
  const Array *in = task->array;
  const int hermitian = !in[3].data;
  E *M = work, *N = M + nn, *B = N + nn;
  V *s = (V *)(B + nn), *gs = s + n;
  Rule rule;
  NAME(place_rule)(&rule, n, task->number[0], task->number[1], gs + n);
  rule.s = s, rule.banded = 1;
  for (; begin < end; begin += LANES) {
    load_reals(s, &in[0], begin, end, n);
    load_reals(gs, &in[1], begin, end, n);
    for (int t = 0; t < LANES; t++) /* unused lanes have no clusters */
      if (begin + t >= end)
        for (int i = 0; i < n; i++) s[i][t] = n - i;
    const E *at[3] = {in_place(&in[2], begin, n), in_place(&in[3], begin, n),
                      in_place(&in[4], begin, n)};
    E *to = at[2] ? in_place(&in[5], begin, n) : 0;
    if (to) memcpy(to, at[2], nn * sizeof(E));
    else load(to = B, n, &in[4], begin, end, n, n, 0);
    if (NAME(find_clusters)(&rule, hermitian ? -1 / (T)0 : ROUNDING)) {
      rule.M = at[0] && !hermitian ? at[0] : M;
      rule.N = at[1] ? at[1] : N;
      if (rule.M == M) load(M, n, &in[2], begin, end, n, n, 0);
      if (hermitian) halve(M, N, n);
      else if (rule.N == N) load(N, n, &in[3], begin, end, n, n, 0);
      NAME(apply_rule)(&rule, to, gs, hermitian);
    }
    if (to == B) unload(B, n, &in[5], begin, end, n, n, 0);
  }
}

/* Memory for k columns of A, in bytes. */
int64_t NAME(product_memory)(int m, int n) {
  return PARTS * ((int64_t)m + n + (int64_t)m * n) * LANE_BYTES;
}

/* C = A B.  Arrays: 0 A, shape (m, k), 1 B, (k, n), 2 C.  number[0] is k >= 1. */
void NAME(product)(const Task *task, int64_t begin, int64_t end, void *work) {
  const int m = (int)task->m, n = (int)task->n, k = (int)task->number[0];
  const Array *in = task->array;
  E *A = work, *B = A + (ptrdiff_t)m * k, *C = B + (ptrdiff_t)k * n;
  for (; begin < end; begin += LANES) {
    load(A, k, &in[0], begin, end, m, k, 0);
    load(B, n, &in[1], begin, end, k, n, 0);
    product(C, PLAIN(A, k), PLAIN(B, n), m, k, n);
    unload(C, n, &in[2], begin, end, m, n, 0);
  }
}

/* Functions of hermitian.py in core, by number[0] of `hermitian`; GIVEN is 0. */
enum { POWER = 1, SQUARE_ROOT, CUT_SQUARE_ROOT, INVERSE_SQUARE_ROOT };

INLINE V each(V x, T f(T)) {
  for (int t = 0; t < LANES; t++) x[t] = f(x[t]);
  return x;
}

INLINE T log_of(T x) { return DOUBLE ? (T)__builtin_log(x) : (T)__builtin_logf((float)x); }

INLINE V powers(V x, V p) {
  for (int t = 0; t < LANES; t++)
    x[t] = DOUBLE ? (T)__builtin_pow(x[t], p[t])
                  : (T)__builtin_powf((float)x[t], (float)p[t]);
  return x;
}

/* Eigenvalues at rounding level of the largest are 0, clearly negative ones NaN. */
static void domain_of(V *s, const V *w, int n) {
  V top = {0};
  for (int i = 0; i < n; i++) top = greater(magnitude(w[i]), top);
  const V level = (T)ROUNDING * top, none = fill((T)__builtin_nan(""));
  for (int i = 0; i < n; i++) {
    const V kept = SELECT(w[i] > level, w[i], (V){0});
    s[i] = SELECT(w[i] >= -level, kept, none);
  }
}

/* f(w), of which s is the domain. */
static void function_values(V *y, const V *w, const V *s, V p, int function, int n) {
  const V zero = {0}, one = fill(1);
  for (int i = 0; i < n; i++) {
    const V positive = greater(w[i], zero);
    if (function == CUT_SQUARE_ROOT) y[i] = root(s[i]);
    else if (function == SQUARE_ROOT) y[i] = root(SELECT(s[i] == zero, positive, s[i]));
    else if (function == INVERSE_SQUARE_ROOT) {
      const V r = root(s[i]);
      y[i] = safe_quotient(one, r, ~(r == zero));
    } else {
      const I kept = (s[i] > zero) | ((s[i] == zero) & (w[i] > zero) & (p > zero));
      y[i] = SELECT(kept, powers(SELECT(kept, w[i], one), p), 0 * s[i]);
    }
  }
}

/* sinh(x) / x for |x| <= 1/2 */
INLINE V hyperbolic_sinc(V x) {
  const V q = x * x;
  return 1 + q / 6 * (1 + q / 20 * (1 + q / 42 * (1 + q / 72 * (1 + q / 110 * (1 + q / 156)))));
}

/* Divided differences of w^p, from those of sinh: with L = log(a / b) / 2,
 * (a^p - b^p) / (a - b) = (a b)^((p - 1) / 2) sinh(p L) / sinh(L). */
static void power_differences(V *d, const V *s, const V *y, V p, V *rest, int n) {
  const V zero = {0}, one = fill(1), half = fill((T)0.5);
  V *logs = rest, *rs = logs + n, *ry = rs + n;
  for (int i = 0; i < n; i++) {
    const V x = SELECT(s[i] > zero, s[i], one);
    logs[i] = each(x, log_of);
    rs[i] = root(x), ry[i] = root(SELECT(s[i] > zero, y[i], one));
  }
  for (int i = 0; i < n; i++)
    for (int j = 0; j <= i; j++) {
      const I inside = (s[i] > zero) & (s[j] > zero);
      const V gap = s[i] - s[j], both = ry[i] * ry[j];
      const V L = (T)0.5 * (logs[i] - logs[j]), pL = p * L;
      const I close = magnitude(L) < half, slow = magnitude(pL) < half;
      const V sinc = hyperbolic_sinc(SELECT(slow, pL, zero));
      const V rise = SELECT(slow, 2 * pL * sinc * both, y[i] - y[j]);
      const V apart = safe_quotient(rise, gap, ~(gap == zero));
      const V ratio = (ry[i] / rs[i]) * (ry[j] / rs[j]);
      const V near = p * sinc / hyperbolic_sinc(SELECT(close, L, zero)) * ratio;
      const V high = greater(s[i], s[j]);
      /* One of the two is 0, or both: then only f(w) = w has a slope other than 0. */
      const V slope = SELECT(p == one, one, zero);
      V across = SELECT(high == zero, slope, safe_quotient(y[i] + y[j], high, ~(high == zero)));
      across += 0 * gap; /* NaN stays */
      d[i * n + j] = d[j * n + i] = SELECT(inside, SELECT(close & slow, near, apart), across);
    }
}

/* Divided differences of f at s, with its values y there; `rest` has room for 3 n vectors. */
static void function_differences(V *d, const V *s, const V *y, V p, int function,
                                 V *rest, int n) {
  const V zero = {0};
  if (function == POWER) {
    power_differences(d, s, y, p, rest, n);
    return;
  }
  for (int i = 0; i < n; i++) rest[i] = root(s[i]);
  for (int i = 0; i < n; i++)
    for (int j = 0; j <= i; j++) {
      const V total = rest[i] + rest[j];
      const I some = ~(total == zero);
      V x = safe_quotient(fill(1), total, some);
      if (function == INVERSE_SQUARE_ROOT) {
        const V inside = -y[i] * safe_quotient(y[j], total, some);
        const V high = greater(s[i], s[j]);
        const V across = safe_quotient(y[i] + y[j], high, ~(high == zero));
        x = SELECT(inside == zero, across, inside);
      }
      d[i * n + j] = d[j * n + i] = x;
    }
}

/* V (D o V^H herm(X) V) V^H; without X, V diag(D) V^H.  Both are Hermitian.
 * Arrays: 0 V, 1 D, real, of shape (n, n) or without X (n,), 2 X or none, 3 the result.
 * With a function as number[0], 1 is w in place of D, and 4 the exponent of a power. */
void NAME(hermitian)(const Task *task, int64_t begin, int64_t end, void *work) {
  const int n = (int)task->n, function = (int)task->number[0];
  const ptrdiff_t nn = (ptrdiff_t)n * n;
  const Array *in = task->array;
  E *Q = work, *X = Q + nn, *F = X + nn, *B = F + nn;
  V *d = (V *)(B + nn), *D = d + n, *w = D + nn, *s = w + n;
  const V half = fill((T)0.5);
  for (; begin < end; begin += LANES) {
    load(Q, n, &in[0], begin, end, n, n, 0);
    V p = {0};
    if (function != GIVEN) {
      load_reals(w, &in[1], begin, end, n);
      if (in[4].data) load_reals(&p, &in[4], begin, end, 1);
      domain_of(s, w, n);
      function_values(d, in[2].data ? s : w, s, p, function, n);
      if (in[2].data) function_differences(D, s, d, p, function, s + n, n);
    }
    if (in[2].data) {
      load(X, n, &in[2], begin, end, n, n, 0);
      for (int i = 0; i < n; i++)
        for (int j = 0; j <= i; j++) {
          X[i * n + j] = scaled(sum(X[i * n + j], conjugate(X[j * n + i])), half);
          X[j * n + i] = conjugate(X[i * n + j]);
        }
      product(F, PLAIN(X, n), PLAIN(Q, n), n, n, n);
      conjugate_product(B, TURNED(Q, n), PLAIN(F, n), n, n, n);
      for (int i = 0; i < n; i++) {
        Array row = in[1];
        row.data += i * row.row;
        if (function == GIVEN) load_reals(d, &row, begin, end, n);
        const V *factor = function == GIVEN ? d : D + i * n;
        for (int j = 0; j < n; j++) B[i * n + j] = scaled(B[i * n + j], factor[j]);
      }
      product(F, PLAIN(Q, n), PLAIN(B, n), n, n, n);
    } else {
      if (function == GIVEN) load_reals(d, &in[1], begin, end, n);
      for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) F[i * n + j] = scaled(Q[i * n + j], d[j]);
    }
    /* F V^H = conj(conj(F) V^T) */
    conjugate_product(B, PLAIN(F, n), TURNED(Q, n), n, n, n);
    for (int i = 0; i < n; i++)
      for (int j = 0; j < n; j++)
        X[i * n + j] = scaled(sum(conjugate(B[i * n + j]), B[j * n + i]), half);
    unload(X, n, &in[3], begin, end, n, n, 0);
  }
}
