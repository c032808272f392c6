/* Singular value and Hermitian eigendecomposition of a batch. */
#include "iterations.h"

/* w_j = conj(tau) v^H a_j with `many` of the columns to the right of v, from j on. */
INLINE void inner_products(const E *v, ptrdiff_t lead, int length, int j, int many,
                           E conj_tau, E *restrict w) {
  E s[4] = {0};
  for (int i = 0; i < length; i++, v += lead)
    for (int q = 0; q < many; q++) add_inner(&s[q], v[0], v[j + 1 + q]);
  for (int q = 0; q < many; q++) w[j + q] = times(conj_tau, s[q]);
}

/* a := (a - v w) (I - conj(tau) conj(u) u^T) for `many` rows (v, a). */
INLINE void reflect_columns(E *a, ptrdiff_t lead, int many, int width,
                            const E *restrict w, const E *restrict u, E tau) {
  E v[2], dot[2] = {0};
  for (int q = 0; q < many; q++) v[q] = a[q * lead];
  for (int j = 0; j < width; j++) {
    E wj = w[j], uj = conjugate(u[j]);
    for (int q = 0; q < many; q++) {
      E x = a[q * lead + j + 1];
      subtract(&x, v[q], wj);
      add_inner(&dot[q], uj, x); /* conj(conj(u)) x = u x */
      a[q * lead + j + 1] = x;
    }
  }
  for (int q = 0; q < many; q++) dot[q] = times(tau, dot[q]);
  for (int j = 0; j < width; j++) {
    E uj = conjugate(u[j]);
    for (int q = 0; q < many; q++) subtract(a + q * lead + j + 1, dot[q], uj);
  }
}

/* A = H_0 H_1 ... B (G_0 G_1 ...)^H with a real bidiagonal B = (d, e), m >= n.
 * The vectors of H_k are left in the columns of A, those of G_k in its rows. */
static void bidiagonalise(E *restrict A, int m, int n, V *restrict d, V *restrict e,
                          E *restrict tau_left, E *restrict tau_right, E *restrict w) {
  const E one = {{fill(1)}};
  const ptrdiff_t lead = LEAD(n);
  for (int k = 0; k < n; k++) {
    E tau;
    E *column = A + k * (lead + 1);
    d[k * GROUPS] = reflector(column, lead, m - k, &tau);
    *column = one;
    tau_left[k] = tau;
    const int width = n - k - 1;
    if (width == 0) continue;
    E conj_tau = conjugate(tau);
    int j = 0;
    for (; j + 4 <= width; j += 4) inner_products(column, lead, m - k, j, 4, conj_tau, w);
    for (; j < width; j++) inner_products(column, lead, m - k, j, 1, conj_tau, w);
    E *u = column + 1; /* row k; its conjugate is reflected */
    for (j = 0; j < width; j++) {
      for (int p = 0; p < PARTS; p++) u[j].part[p] -= w[j].part[p];
      u[j] = conjugate(u[j]);
    }
    e[k * GROUPS] = reflector(u, 1, width, &tau);
    u[0] = one;
    tau_right[k] = tau;
    int i = 1;
    for (; i + 2 <= m - k; i += 2)
      reflect_columns(column + i * lead, lead, 2, width, w, u, tau);
    for (; i < m - k; i++)
      reflect_columns(column + i * lead, lead, 1, width, w, u, tau);
  }
  e[(n - 1) * GROUPS] = (V){0};
}

/* x := (I - tau h h^H) x for `many` rows x, `length` elements apart. */
INLINE void reflect(E *restrict x, int many, int length, const E *restrict h,
                    ptrdiff_t step, int size, E tau) {
  E s[STRIP] = {0};
  for (int i = 0; i < size; i++)
    for (int r = 0; r < many; r++) add_inner(&s[r], h[i * step], x[r * length + i]);
  for (int r = 0; r < many; r++) s[r] = times(tau, s[r]);
  for (int i = 0; i < size; i++)
    for (int r = 0; r < many; r++) subtract(x + r * length + i, s[r], h[i * step]);
}

/* x := H_0 H_1 ... H_(count - 1) x for `many` rows x, each of `length` elements; the
 * vector of H_k begins at v[k * diagonal] and has the step `step`. */
static void reflect_rows(E *restrict x, int many, int length, const E *restrict v,
                         ptrdiff_t diagonal, ptrdiff_t step, int first, int count,
                         const E *restrict tau) {
  for (int k = count - 1; k >= 0; k--) {
    const E *h = v + k * diagonal;
    const int start = k + first, size = length - start;
    if (many == STRIP) {
      reflect(x + start, STRIP, length, h, step, size, tau[k]);
    } else {
      for (int r = 0; r < many; r++)
        reflect(x + (ptrdiff_t)r * length + start, 1, length, h, step, size, tau[k]);
    }
  }
}

/* A = H_0 H_1 ... T (H_0 H_1 ...)^H with a real tridiagonal T = (d, e).  (LAPACK's
 * hetd2.)  The vectors are left in the columns below the diagonal. */
static void tridiagonalise(E *restrict A, int n, V *restrict d, V *restrict e,
                           E *restrict tau, E *restrict w) {
  const ptrdiff_t lead = LEAD(n);
  for (int k = 0; k < n; k++) {
    d[k * GROUPS] = A[k * (lead + 1)].part[0];
    const int size = n - k - 1;
    if (size == 0) break;
    E *v = A + (k + 1) * lead + k; /* column k below the diagonal */
    E t, inner = {0};
    e[k * GROUPS] = reflector(v, lead, size, &t);
    v[0] = (E){{fill(1)}};
    tau[k] = t;
    for (int i = 0; i < size; i++) {
      const E *row = v + i * lead + 1;
      E s0 = {0}, s1 = {0};
      int j = 0;
      for (; j + 2 <= size; j += 2) {
        add_inner(&s0, conjugate(row[j]), v[j * lead]);
        add_inner(&s1, conjugate(row[j + 1]), v[(j + 1) * lead]);
      }
      for (; j < size; j++) add_inner(&s0, conjugate(row[j]), v[j * lead]);
      for (int p = 0; p < PARTS; p++) s0.part[p] += s1.part[p];
      w[i] = times(t, s0);
      add_inner(&inner, w[i], v[i * lead]);
    }
    inner = scaled(times(t, inner), fill((T)0.5));
    for (int i = 0; i < size; i++) subtract(w + i, inner, v[i * lead]);
    for (int i = 0; i < size; i++) {
      E *row = v + i * lead, vi = row[0], wi = w[i];
      row++;
      for (int j = 0; j < size; j++) {
        subtract(row + j, vi, conjugate(w[j]));
        subtract(row + j, wi, conjugate(v[j * lead]));
      }
    }
  }
  e[(n - 1) * GROUPS] = (V){0};
}

/* Divide each lane by the power of two above its largest part, which is returned in
 * two factors: one alone may overflow.  A lane with a number that is not finite becomes
 * zero, and is marked in `bad`. */
static void normalise(E *A, ptrdiff_t count, V *upper, V *lower, I *bad) {
  V size = {0}, nothing = {0};
  V *x = (V *)A;
  for (ptrdiff_t i = 0; i < count * PARTS; i++) {
    size = greater(magnitude(x[i]), size); /* NaN is not greater */
    nothing += x[i] - x[i];
  }
  *bad = ~(nothing == (V){0});
  V up, down;
  for (int t = 0; t < LANES; t++) {
    int k = (*bad)[t] ? 0 : exponent(size[t]);
    up[t] = power_of_two(-(k / 2)), down[t] = power_of_two(-(k - k / 2));
    (*upper)[t] = power_of_two(k / 2), (*lower)[t] = power_of_two(k - k / 2);
  }
  for (ptrdiff_t i = 0; i < count * PARTS; i++)
    x[i] = SELECT(*bad, (V){0}, x[i] * up * down);
}

/* Rows of x, `length` elements each, go where `place` says as rows of a matrix; NaN in
 * bad lanes. */
static void store(const E *x, int many, int length, const I *place, int conj, I bad,
                  const Array *out, int64_t begin, int64_t end) {
  const V more = SELECT(bad, fill((T)__builtin_nan("")), (V){0});
  for (int r = 0; r < many; r++) {
    T *to[LANES];
    addresses(to, out, begin, end);
    for (int t = 0; t < LANES; t++)
      if (to[t]) to[t] += place[r][t] * out->row;
    unload_run(x + (ptrdiff_t)r * length, 1, to, (ptrdiff_t)length * PARTS, conj, more);
  }
}

/* The vectors of a basis, after reflections, in strips of vectors. */
static void finish(const Basis *basis, int n, int length, const E *v, ptrdiff_t step,
                   int first, int count, const E *tau, const V *sign, E *strip,
                   const I *place, int conj, I bad, const Array *out, int64_t begin,
                   int64_t end) {
  for (int i = 0; i < n; i += STRIP) {
    const int many = n - i < STRIP ? n - i : STRIP;
    for (int r = 0; r < many; r++) {
      const V by = sign ? sign[i + r] : fill(1);
      for (int k = 0; k < length; k++) {
        E z = {0};
        if (k < n) z.part[0] = *component(basis, n, i + r, k) * by;
        strip[(ptrdiff_t)r * length + k] = z;
      }
    }
    reflect_rows(strip, many, length, v, LEAD(n) + 1, step, first, count, tau);
    for (int r = 0; r < many; r++) { /* correct the lengths for rounding errors */
      E *x = strip + (ptrdiff_t)r * length;
      V excess = fill(-1);
      for (int k = 0; k < length; k++) excess += square(x[k]);
      excess = 1 - (T)0.5 * excess;
      for (int k = 0; k < length; k++) x[k] = scaled(x[k], excess);
    }
    store(strip, many, length, place + i, conj, bad, out, begin, end);
  }
}

/* Workspace of a group of matrices. */
typedef struct {
  E *x, *tau_left, *tau_right;
  V upper, lower;
  I bad;
} Group;

/* Read a group of matrices: (m, n), or the lower triangles of (m, m) where n is 0. */
static void take(Group *g, const Array *A, int64_t begin, int64_t end, int m, int n) {
  const int hermitian = n == 0, size = hermitian ? m : n;
  const ptrdiff_t lead = LEAD(size);
  E *x = g->x;
  if (!hermitian) load(x, lead, A, begin, end, m, n, 0);
  for (int i = 0; i < m; i++) {
    if (hermitian) {
      Array row = *A;
      row.data += i * A->row;
      load(x + i * lead, lead, &row, begin, end, 1, i + 1, 0);
#if COMPLEX
      x[i * (lead + 1)].part[1] = (V){0};
#endif
      for (int j = 0; j < i; j++) x[j * lead + i] = conjugate(x[i * lead + j]);
    }
    if (lead > size) x[i * lead + size] = (E){0};
  }
  normalise(x, m * lead, &g->upper, &g->lower, &g->bad);
}

static void store_values(const V *d, int n, const I *place, const Group *g,
                         const Array *out, int64_t begin, int64_t end) {
  for (int t = 0; t < LANES && begin + t < end; t++)
    for (int i = 0; i < n; i++)
      out->data[(begin + t) * out->matrix + place[i][t] * out->column] =
          g->bad[t] ? (T)__builtin_nan("") : d[i * GROUPS][t] * g->upper[t] * g->lower[t] + 0;
}

/* Vectors that each group needs, and that all groups share. */
#define OWN(m, n)                                                                \
  (PARTS * ((ptrdiff_t)(m) * LEAD(n) + 2 * (n)) + 2 * BASIS(n) + 4 * SWEEPS * (n))
#define SHARED(m, n) (PARTS * (STRIP * (ptrdiff_t)(m) + 2 * (n)) + 4 * GROUPS * (n))

const int NAME(lanes) = LANES * GROUPS; /* matrices that are worked on at a time */

/* Memory that a call of `svd` or `eigh` needs, in bytes. */
int64_t NAME(decomposition_memory)(int m, int n) {
  return (GROUPS * OWN(m, n) + SHARED(m, n)) * LANE_BYTES;
}

static void divide(V *work, int m, int n, Group *groups, Basis *left, Basis *right) {
  EACH {
    E *x = (E *)(work + SHARED(m, n) + u * OWN(m, n));
    groups[u] = (Group){.x = x, .tau_left = x + m * (ptrdiff_t)LEAD(n)};
    groups[u].tau_right = groups[u].tau_left + n;
    left[u].vectors = (V *)(groups[u].tau_right + n);
    right[u].vectors = left[u].vectors + BASIS(n);
    left[u].rotations = (Rotation *)(right[u].vectors + BASIS(n));
    right[u].rotations = left[u].rotations + SWEEPS * (ptrdiff_t)n;
  }
}

/* Mark a group without matrices as converged. */
INLINE void idle(V *d, V *e, int n) {
  for (int i = 0; i < n; i++) d[i * GROUPS] = e[i * GROUPS] = (V){0};
}

INLINE void report(int32_t *failed, I bad, I left_over, int64_t begin, int64_t end) {
  for (int t = 0; t < LANES && begin + t < end; t++)
    failed[begin + t] = bad[t] ? 1 : left_over[t] ? 2 : 0;
}

/* Thin SVD, m >= n, of array 0: to array 1 the singular values, to 2 the left vectors
 * as rows, and to 3 the conjugates of the right ones as rows.  Failed is 1 for a matrix
 * that is not finite and 2 where the iteration did not converge: their factors are NaN. */
void NAME(svd)(const Task *task, int64_t begin, int64_t end, void *work) {
  const int m = (int)task->m, n = (int)task->n;
  E *strip = work, *w = strip + STRIP * (ptrdiff_t)m;
  V *d = (V *)(w + 2 * n), *e = d + n * GROUPS, *sign = e + n * GROUPS;
  I *place = (I *)(sign + n);
  Group groups[GROUPS];
  Basis P[GROUPS], Q[GROUPS];
  I left_over[GROUPS];
  divide(work, m, n, groups, P, Q);
  for (; begin < end; begin += LANES * GROUPS) {
    EACH {
      Group *g = &groups[u];
      if (begin + u * LANES >= end) {
        idle(d + u, e + u, n);
        P[u].count = Q[u].count = 0;
        break;
      }
      take(g, &task->array[0], begin + u * LANES, end, m, n);
      const uint64_t before = flush_subnormal();
      bidiagonalise(g->x, m, n, d + u, e + u, g->tau_left, g->tau_right, w);
      restore(before);
      eye(&P[u], n);
      eye(&Q[u], n);
    }
    const uint64_t before = flush_subnormal();
    bidiagonal_qr(d, e, n, P, Q, left_over);
    restore(before);
    EACH {
      Group *g = &groups[u];
      const int64_t from = begin + u * LANES;
      if (from >= end) break;
      const I bad = g->bad;
      g->bad |= left_over[u];
      for (int i = 0; i < n; i++) {
        V *value = d + i * GROUPS + u;
        sign[i] = SELECT(*value < (V){0}, fill(-1), fill(1));
        *value = magnitude(*value);
      }
      order(d + u, n, 1, place);
      flush_subnormal();
      finish(&P[u], n, m, g->x, LEAD(n), 0, n, g->tau_left, sign, strip, place, 0,
             g->bad, &task->array[2], from, end);
      finish(&Q[u], n, n, g->x + 1, 1, 1, n - 1, g->tau_right, 0, strip, place, 1,
             g->bad, &task->array[3], from, end);
      restore(before);
      store_values(d + u, n, place, g, &task->array[1], from, end);
      report(task->failed, bad, left_over[u], from, end);
    }
  }
}

/* Eigendecomposition of Hermitian matrices, whose lower triangles are in array 0: to array 1 the
 * eigenvalues in ascending order, and to 2 the eigenvectors as rows.  Failed as above. */
void NAME(eigh)(const Task *task, int64_t begin, int64_t end, void *work) {
  const int n = (int)task->n;
  E *strip = work, *w = strip + STRIP * (ptrdiff_t)n;
  V *d = (V *)(w + 2 * n), *e = d + n * GROUPS;
  I *place = (I *)(e + n * GROUPS);
  Group groups[GROUPS];
  Basis basis[GROUPS], unused[GROUPS];
  I left_over[GROUPS];
  divide(work, n, n, groups, basis, unused);
  for (; begin < end; begin += LANES * GROUPS) {
    EACH {
      Group *g = &groups[u];
      if (begin + u * LANES >= end) {
        idle(d + u, e + u, n);
        basis[u].count = 0;
        break;
      }
      take(g, &task->array[0], begin + u * LANES, end, n, 0);
      const uint64_t before = flush_subnormal();
      tridiagonalise(g->x, n, d + u, e + u, g->tau_left, w);
      restore(before);
      eye(&basis[u], n);
    }
    const uint64_t before = flush_subnormal();
    tridiagonal_qr(d, e, n, basis, left_over);
    restore(before);
    EACH {
      Group *g = &groups[u];
      const int64_t from = begin + u * LANES;
      if (from >= end) break;
      const I bad = g->bad;
      g->bad |= left_over[u];
      order(d + u, n, 0, place);
      flush_subnormal();
      finish(&basis[u], n, n, g->x + LEAD(n), LEAD(n), 1, n - 1, g->tau_left, 0, strip,
             place, 0, g->bad, &task->array[2], from, end);
      restore(before);
      store_values(d + u, n, place, g, &task->array[1], from, end);
      report(task->failed, bad, left_over[u], from, end);
    }
  }
}
