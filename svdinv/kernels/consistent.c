/* The functions of svdinv/core/degenerate.py and eigh.py, one matrix in each lane;
 * derivations and sources are there.
 *
 * Compiled without contraction to fused multiply and add: estimates are chosen by
 * comparison, and so all instruction sets choose the same.
 */
#include "consistent.h"

#if DOUBLE
#define VANISHING 2.8126442852362983e-103 /* of core/tolerances.py */
#define LEAST_SQUARE 1.4916681462400413e-154
#else
#define VANISHING 2.2737368e-13f
#define LEAST_SQUARE 1.0842022e-19f
#endif
#define ERROR_FACTOR 10 /* this and the following as in core/degenerate.py */
#define RATIO_ERROR ((T)0.3)
#define SLOPE_RATIO_OF_GAUGE 100
#define SLOPE_RATIO_AT_ZERO ((T)1e4)

void NAME(place_rule)(Rule *r, int n, double near, double epsilon, void *memory) {
  V *at = memory;
  *r = (Rule){.n = n, .near = (T)near, .epsilon = (T)epsilon};
  r->cluster = (I *)at, r->g = at + n, r->size = at + 2 * n, r->b = at + 3 * n;
  r->inverse = at + 4 * n, r->rho = at + 5 * n, r->error = at + 6 * n;
  r->linear = (I *)(at + 7 * n);
}

INLINE V reciprocal(V s) {
  I some = s > (T)VANISHING;
  return SELECT(some, 1 / s, (V){0});
}

/* ---- clusters (core/clusters.py) ----------------------------------------------------- */

int NAME(find_clusters)(Rule *r, T negligible) {
  const T least = SQRT(r->epsilon), reach = r->near > least ? r->near : least;
  r->reach = r->banded ? reach : 1 / (T)0;
  I some = {0}, before = {0}, first = {0};
  for (int i = 0; i < r->n; i++) {
    I after = {0};
    if (i + 1 < r->n) after = magnitude(r->s[i + 1] - r->s[i]) <= reach;
    I inside = before | after | (r->s[i] <= negligible);
    first = SELECT_INT(before, first, fill_int(i));
    r->cluster[i] = SELECT_INT(inside, first, fill_int(-1));
    some |= inside;
    before = after;
  }
  return any(some);
}

/* Whether the rule applies to a pair: both are in one cluster and, if `banded`, within reach of
 * each other. */
INLINE I in_cluster(const Rule *r, int i, int j) {
  const I close = magnitude(r->s[j] - r->s[i]) <= r->reach;
  return close & (r->cluster[i] == r->cluster[j]) & (r->cluster[i] >= 0);
}

INLINE I is_near(const Rule *r, int i, int j) {
  return magnitude(r->s[j] - r->s[i]) <= r->near;
}

/* The range *from <= j < *to of such pairs (i, j) in any lane. */
static void span_of(const Rule *r, int i, int *from, int *to) {
  for (*from = i; *from > 0 && any(in_cluster(r, i, *from - 1));) --*from;
  for (*to = i + 1; *to < r->n && any(in_cluster(r, i, *to));) ++*to;
}

/* ---- inputs of the rule from whole matrices --------------------------------------------- */

/* The larger of two, or NaN. */
INLINE V peak(V a, V b) {
  I first = (a > b) | (a != a);
  return SELECT(first, a, b);
}

INLINE V part_peak(V x, E y) {
  for (int p = 0; p < PARTS; p++) x = peak(magnitude(y.part[p]), x);
  return x;
}

/* Cotangents, normalised because their squares would under- or overflow. */
INLINE E left_cotangent(const Rule *r, int i, int j) {
  return divided(r->M[(ptrdiff_t)i * r->n + j], r->scale);
}
INLINE E right_cotangent(const Rule *r, int i, int j) {
  return divided(r->N[(ptrdiff_t)i * r->n + j], r->scale);
}

#if !ONE || COMPLEX
/* Largest moduli of the columns of M and the rows of N, divided by `scale`. */
static void measure(Rule *r, V scale) {
  for (int i = 0; i < r->n; i++) r->size[i] = (V){0};
  for (int i = 0; i < r->n; i++)
    for (int j = 0; j < r->n; j++) {
      const ptrdiff_t at = (ptrdiff_t)i * r->n + j;
      r->size[j] = peak(absolute(divided(r->M[at], scale)), r->size[j]);
      r->size[i] = peak(absolute(divided(r->N[at], scale)), r->size[i]);
    }
}

#else
typedef Int Rows __attribute__((vector_size(sizeof(Row))));

/* The larger of |a| and b, or NaN. */
INLINE Row peaks(Row a, Row b) {
  a = (Row)((Rows)a & (Int)(((UInt)-1) >> 1));
  const Rows first = (a > b) | (a != a);
  return (Row)(((Rows)a & first) | ((Rows)b & ~first));
}

/* Largest moduli of the columns of M and the rows of N. */
static void measure_rows(Rule *r) {
  const int n = r->n;
  T *const size = (T *)r->size;
  for (int i = 0; i < n; i++) size[i] = 0;
  for (int i = 0; i < n; i++) {
    Row most = {0};
    for (int j = 0; j < n; j += COLUMNS) {
      const size_t bytes = (n - j < COLUMNS ? n - j : COLUMNS) * sizeof(T);
      const ptrdiff_t at = (ptrdiff_t)i * n + j;
      Row m = {0}, h = {0}, known = {0};
      memcpy(&m, r->M + at, bytes);
      memcpy(&h, r->N + at, bytes);
      memcpy(&known, size + j, bytes);
      known = peaks(m, known);
      most = peaks(h, most);
      memcpy(size + j, &known, bytes);
    }
    for (int j = 0; j < COLUMNS; j++) r->size[i] = peak((V){most[j]}, r->size[i]);
  }
}
#endif

/* `cotangent_values`, without smooth and inverse. */
static void collect_values(Rule *r, const V *g) {
  const int n = r->n;
  V scale = {0};
#if ONE && !COMPLEX
  measure_rows(r); /* dividing the largest elements is as exact as dividing all elements */
  for (int i = 0; i < n; i++) scale = peak(r->size[i], scale);
#else
  for (ptrdiff_t i = 0; i < (ptrdiff_t)n * n; i++)
    scale = part_peak(part_peak(scale, r->M[i]), r->N[i]);
#endif
  for (int i = 0; i < n; i++) scale = peak(magnitude(g[i]), scale);
  I zero = scale == (V){0};
  r->scale = SELECT(zero, fill(1), scale);
#if ONE && !COMPLEX
  for (int i = 0; i < n; i++) r->size[i] /= r->scale;
#else
  measure(r, r->scale);
#endif
  r->most = (V){0};
  for (int i = 0; i < n; i++) {
    r->g[i] = g[i] / r->scale;
    r->most = peak(magnitude(r->g[i]), r->most);
    r->b[i] = (left_cotangent(r, i, i).part[0] + right_cotangent(r, i, i).part[0]) * (T)0.5;
  }
}

/* The slope that `smooth_at_zero` compares with. */
static V largest_slope(const V *s, const V *size, const V *g, int n) {
  V slope = {0};
  for (int i = 0; i < n; i++) {
    V bounded = greater(s[i], fill(SLOPE_RATIO_AT_ZERO * ROUNDING));
    I significant = s[i] > ROUNDING;
    slope = peak(SELECT(significant, size[i] / bounded, (V){0}), slope);
    slope = peak(magnitude(g[i]), slope);
  }
  return slope;
}

INLINE I smooth_at_zero(V s, V size, V slope) {
  return (s > ROUNDING) | (size <= SLOPE_RATIO_AT_ZERO * s * slope);
}

/* rho_i = f'(s_i) / f(s_i) over the neighbours of i, and its error: `log_derivative`. */
static void log_derivative(Rule *r, int i, int from, int to) {
  const V zero = {0};
  V count = zero, mean_b = zero, mean_g = zero, mean_s = zero;
  for (int j = from; j < to; j++) {
    I near = is_near(r, i, j);
    count += SELECT(near, fill(1), zero);
    mean_b += SELECT(near, r->b[j], zero);
    mean_g += SELECT(near, r->g[j], zero);
    mean_s += SELECT(near, r->s[j], zero);
  }
  mean_b /= count, mean_g /= count, mean_s /= count;
  V bb = zero, bg = zero, ss = zero, square_b = zero, square_g = zero, both = zero;
  for (int j = from; j < to; j++) {
    I near = is_near(r, i, j);
    V b = SELECT(near, r->b[j], zero), g = SELECT(near, r->g[j], zero);
    V db = SELECT(near, b - mean_b, zero), dg = SELECT(near, g - mean_g, zero);
    V ds = SELECT(near, r->s[j] - mean_s, zero);
    bb += db * db, bg += db * dg, ss += ds * ds;
    square_b += b * b, square_g += g * g, both += b * g;
  }
  const V variance = bb / count, inverse = r->inverse[i], size = r->size[i];
  square_b /= count, square_g /= count;
  const I known = variance > (T)LEAST_SQUARE;
  const V slope = safe_quotient(bg / count, variance, known);
  const V ratio = safe_quotient(both / count, square_b, square_b > (T)LEAST_SQUARE);
  V rounding = 2 * r->epsilon * (r->most + size * inverse);
  V curvature = root(square_g) * inverse + root(square_b) * inverse * inverse;
  V slope_error = safe_quotient(rounding + curvature * root(ss / count), root(variance), known);
  /* Without a penalty on the singular values the line goes through the origin, and the
   * ratio is known even where b hardly varies. */
  I through_origin = ~known | (magnitude(ratio - slope) <= slope_error);
  /* With nothing but rounding on the diagonal, the minimum norm is the better guess. */
  V least = 8 * r->epsilon * size;
  I silent = square_b <= least * least;
  V ratio_error = SELECT(silent, 2 * inverse, RATIO_ERROR * inverse);
  I better = known & (slope_error < ratio_error);
  V error = SELECT(better, slope_error, ratio_error);
  r->rho[i] = SELECT(through_origin, ratio, slope);
  r->error[i] = SELECT(through_origin, error, slope_error);
}

/* ---- one pair ------------------------------------------------------------------------------ */

/* E_ij odd_ij by the estimate with the smallest predicted error: `cluster_part`. */
static E cluster_part(const Rule *r, int i, int j, E odd, E B, E norm, V norm_error) {
  if (i == j) return (E){0};
  const V gap = r->s[j] - r->s[i], distance = magnitude(gap);
  const I near = is_near(r, i, j), apart = distance > (T)VANISHING;
  const V noise = 2 * r->epsilon * (r->size[i] + r->size[j]);
  const E plain = choose(apart, divided(odd, SELECT(apart, gap, fill(1))), (E){0});
  const E consistent = scaled(B, (r->rho[i] + r->rho[j]) * (T)0.5);
  const V error = (r->error[i] + r->error[j]) * (T)0.5 * absolute(B);
  /* The error of the plain quotient is noise / distance; multiplied out, because the
   * distance may be 0. */
  const I use_slope = error * distance < noise;
  const V best = SELECT(use_slope, error * distance, noise);
  I use_norm = (norm_error * distance < best) | (use_slope & (norm_error < error));
  /* f does not have this slope: there is a kink, or the loss depends on single vectors, which
   * are arbitrary where the distance is a rounding error. */
  const V allowed = ERROR_FACTOR * (noise + error * distance);
  const I unlike = absolute(difference(odd, scaled(consistent, gap))) > allowed;
  const I free = absolute(odd) > SLOPE_RATIO_OF_GAUGE * distance * r->most;
  use_norm = SELECT_INT(unlike, free & (distance <= ROUNDING), use_norm);
  const E part = choose(near & use_slope & ~unlike, consistent, plain);
  return choose(near & use_norm, norm, part);
}

/* The cotangents at (i, j) and (j, i), and the parts of them that are formed in the same way for
 * singular values and eigenvalues. */
typedef struct {
  E m, mt, h, ht; /* M_ij, M_ji, N_ij, N_ji */
  E odd, B;       /* skew(M - N) and herm(M + N) / 2 */
} Pair;

INLINE Pair pair_of(const Rule *r, int i, int j) {
  Pair x = {.m = left_cotangent(r, i, j), .mt = left_cotangent(r, j, i),
            .h = right_cotangent(r, i, j), .ht = right_cotangent(r, j, i)};
  x.odd = difference(difference(x.m, x.h), conjugate(difference(x.mt, x.ht)));
  x.odd = scaled(x.odd, fill((T)0.5));
  x.B = scaled(sum(sum(x.m, x.h), conjugate(sum(x.mt, x.ht))), fill((T)0.25));
  return x;
}

/* Whether f is linear between two values, so that the element is M_ij / s_j: `_zero_part`. */
INLINE I is_zero_part(const Rule *r, int i, int j, E left, E right, E left_t, E right_t) {
  const V size = r->size[i] * r->inverse[i] + r->size[j] * r->inverse[j] + 1;
  const V limit = SQRT(r->epsilon) * size;
  const I alone = ~((r->s[i] > (T)VANISHING) & (r->s[j] > (T)VANISHING));
  const I agree = (absolute(difference(left, right)) <= limit) &
                  (absolute(difference(left_t, right_t)) <= limit);
  return (alone | agree) & r->linear[i] & r->linear[j] &
         (greater(r->s[i], r->s[j]) <= SQRT((T)SPACING));
}

/* Element (i, j) of the middle factor of the SVD's pullback: `consistent_block`. */
static E svd_element(const Rule *r, int i, int j) {
  const Pair x = pair_of(r, i, j);
  const V si = r->s[i], sj = r->s[j], one = fill(1);
  const I two = (si > (T)VANISHING) & (sj > (T)VANISHING);
  const V share = SELECT(two, fill((T)0.5), one);
  const E left = scaled(x.m, r->inverse[j]), right = scaled(x.h, r->inverse[i]);
  const E left_t = scaled(x.mt, r->inverse[i]), right_t = scaled(x.ht, r->inverse[j]);
  E quotient = scaled(sum(left, right), share);
  const E quotient_t = scaled(sum(left_t, right_t), share);
  const E norm = scaled(sum(quotient, conjugate(quotient_t)), fill((T)0.5));
  const E even = difference(sum(x.m, x.h), conjugate(sum(x.mt, x.ht)));
  E part = cluster_part(r, i, j, x.odd, x.B, norm, absolute(norm));
  part = sum(part, scaled(even, reciprocal(si + sj) * (T)0.5));
  if (i == j) quotient.part[0] = (V){0};
  const I negligible = greater(si, sj) <= ROUNDING;
  part = choose(negligible, (E){0}, part);
  part = choose(is_zero_part(r, i, j, left, right, left_t, right_t), quotient, part);
  if (i == j) part.part[0] += r->g[i];
  return scaled(part, r->scale);
}

/* The same for eigenvalues; the minimum-norm solution is 0, with the error B f' / f. */
static E eigh_element(const Rule *r, int i, int j) {
  const Pair x = pair_of(r, i, j);
  E part = cluster_part(r, i, j, x.odd, x.B, (E){0}, absolute(x.B) * r->inverse[i]);
  if (i == j) part.part[0] += r->g[i];
  return scaled(part, r->scale);
}

/* ---- the rule within the clusters of all lanes -------------------------------------------- */

static void add_svd_values(Rule *r) {
  const V slope = largest_slope(r->s, r->size, r->g, r->n);
  for (int i = 0; i < r->n; i++) {
    r->inverse[i] = reciprocal(r->s[i]);
    r->linear[i] = smooth_at_zero(r->s[i], r->size[i], slope);
  }
}

/* If the slope clearly differs from 1 / s, f is not linear. */
static void check_linear(Rule *r, int i) {
  const I unlike = magnitude(r->rho[i] - r->inverse[i]) > ERROR_FACTOR * r->error[i];
  r->linear[i] &= ~unlike | (r->s[i] <= ROUNDING);
}

/* Estimate |f'/f| from the cotangents, in the role of 1 / s for singular values: `_steepness`. */
static void guess_steepness(Rule *r, int i, int from, int to) {
  V g = {0}, b = {0};
  for (int j = from; j < to; j++) {
    I near = is_near(r, i, j);
    g += SELECT(near, magnitude(r->g[j]), (V){0});
    b += SELECT(near, magnitude(r->b[j]), (V){0});
  }
  r->inverse[i] = 1 + safe_quotient(g, b, b > (T)LEAST_SQUARE);
}

void NAME(apply_rule)(Rule *r, E *B, const V *g, int hermitian) {
  const int n = r->n;
  collect_values(r, g);
  if (!hermitian) add_svd_values(r);
  for (int i = 0; i < n; i++) {
    int from, to;
    span_of(r, i, &from, &to);
    if (hermitian) guess_steepness(r, i, from, to);
    log_derivative(r, i, from, to);
    if (!hermitian) check_linear(r, i);
  }
  for (int i = 0; i < n; i++) {
    int from, to;
    span_of(r, i, &from, &to);
    for (int j = from; j < to; j++) {
      const I inside = in_cluster(r, i, j);
      E *at = B + (ptrdiff_t)i * n + j;
      if (any(inside))
        *at = choose(inside, hermitian ? eigh_element(r, i, j) : svd_element(r, i, j), *at);
    }
  }
}

void NAME(outside_weight)(V *weight, const V *s, const E *G, const V *g, int m, int n) {
  for (int j = 0; j < n; j++) weight[j] = reciprocal(s[j]);
  if (!any(s[n - 1] <= ROUNDING)) return;
  V size[n];
  for (int j = 0; j < n; j++) {
    size[j] = (V){0};
    for (int i = 0; i < m; i++) size[j] = peak(absolute(G[(ptrdiff_t)i * n + j]), size[j]);
  }
  const V slope = largest_slope(s, size, g, n);
  for (int j = 0; j < n; j++) {
    I smooth = smooth_at_zero(s[j], size[j], slope);
    weight[j] = SELECT(smooth, weight[j], (V){0});
  }
}
