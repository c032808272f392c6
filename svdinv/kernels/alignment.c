/* Rigid motions between points, from memory to memory.
 *
 * The formulas are those of svdinv/core/alignment_operations.py, and the derivative of the rotation
 * that of spectral.py.  Matrices of points are (m, n): m points in n dimensions.
 */
#include "consistent.h"

#if !COMPLEX

typedef void Run(const Task *, int64_t, int64_t, void *);
Run NAME(svd);
int64_t NAME(decomposition_memory)(int, int);

/* Centred points X and Y, divided by `unit`, their centroids p and q, and weights of sum 1. */
typedef struct {
  int m, n;
  V *X, *Y, *w, *p, *q;
  V unit, mass;
  V noise; /* singular values up to this may be rounding errors */
  V scale;
} Points;

/* Memory that a call needs, in bytes. */
int64_t NAME(alignment_memory)(int m, int n) {
  return NAME(decomposition_memory)(n, n) +
         (2 * (int64_t)m * n + m + 6 * (int64_t)n * n + 8 * n) * LANE_BYTES;
}

static Points place(const Task *task, V **work) {
  Points c = {.m = (int)task->m, .n = (int)task->n};
  const ptrdiff_t mn = (ptrdiff_t)c.m * c.n;
  c.X = *work, c.Y = c.X + mn, c.w = c.Y + mn, c.p = c.w + c.m, c.q = c.p + c.n;
  *work = c.q + c.n;
  return c;
}

static V largest_of(const V *x, ptrdiff_t count) {
  V size = {0};
  for (ptrdiff_t i = 0; i < count; i++) size = greater(magnitude(x[i]), size);
  return size;
}

/* As `binary_scale` in core/namespace.py. */
static V binary_scale(V size) {
  const I some = size > (V){0}, finite = size - size == (V){0};
  V unit = fill(1);
  for (int part = 6; part < 30; part += 5) {
    const V bound = fill(power_of_two(part * (BIAS + 1) / 32));
    const int to = (2 * part + 5) * (BIAS + 1) / 64;
    unit = SELECT(finite & (size > bound), fill(power_of_two(to)), unit);
    unit = SELECT(some & (size < 1 / bound), fill(power_of_two(-to)), unit);
  }
  return unit;
}

/* Subtract the centroid, in two steps because the first is rounded; return the largest element
 * of the difference. */
static V take_off(V *X, V *p, const Points *c) {
  for (int j = 0; j < c->n; j++) {
    p[j] = (V){0};
    for (int again = 0; again < 2; again++) {
      V step = {0};
      for (int i = 0; i < c->m; i++) step += c->w[i] * X[i * c->n + j];
      for (int i = 0; i < c->m; i++) X[i * c->n + j] -= step;
      p[j] += step;
    }
  }
  return largest_of(X, (ptrdiff_t)c->m * c->n);
}

/* Read points P, Q and their weights, arrays 0 to 2. */
static void centre(Points *c, const Array *in, int64_t begin, int64_t end) {
  const int m = c->m, n = c->n;
  const ptrdiff_t mn = (ptrdiff_t)m * n;
  load((E *)c->X, n, &in[0], begin, end, m, n, 0);
  load((E *)c->Y, n, &in[1], begin, end, m, n, 0);
  load((E *)c->w, m, &in[2], begin, end, 1, m, 0);
  c->unit = binary_scale(largest_of(c->X, 2 * mn));
  const V inverse = 1 / c->unit;
  for (ptrdiff_t i = 0; i < 2 * mn; i++) c->X[i] *= inverse;
  c->mass = (V){0};
  for (int i = 0; i < m; i++) c->mass += c->w[i];
  c->mass = SELECT(c->mass == (V){0}, fill(1), c->mass);
  for (int i = 0; i < m; i++) c->w[i] /= c->mass;
  const V P = largest_of(c->X, mn), Q = largest_of(c->Y, mn);
  const V X = take_off(c->X, c->p, c), Y = take_off(c->Y, c->q, c);
  c->noise = (T)ROUNDING * (X * Y + (T)ROUNDING * P * Q);
  c->scale = fill(1);
}

/* Sign of the determinant of an orthogonal matrix, which is overwritten, by Householder
 * reflections: each has the determinant -1, and leaves -s on the diagonal. */
static V determinant(V *A, int n) {
  V sign = fill(1);
  for (int k = 0; k < n; k++) {
    const V corner = A[k * n + k];
    const V s = SELECT(corner < (V){0}, fill(-1), fill(1));
    sign *= s;
    A[k * n + k] += s;
    for (int j = k + 1; j < n; j++) {
      V inner = {0};
      for (int i = k; i < n; i++) inner += A[i * n + k] * A[i * n + j];
      inner /= 1 + magnitude(corner);
      for (int i = k; i < n; i++) A[i * n + j] -= inner * A[i * n + k];
    }
  }
  return sign;
}

/* C = A B of n x n matrices; each has a step along its rows and one along its columns. */
INLINE void multiply(V *C, const V *A, int ai, int ak, const V *B, int bk, int bj, int n) {
  for (int i = 0; i < n; i++)
    for (int j = 0; j < n; j++) {
      V x = {0};
      for (int k = 0; k < n; k++) x += A[i * ai + k * ak] * B[k * bk + j * bj];
      C[i * n + j] = x;
    }
}

/* R = U diag(1, ..., 1, sign) V^H of determinant 1, from U and V as rows; `scratch` has room
 * for one matrix.  The last row of U becomes that of U diag(1, ..., 1, sign). */
static V rotation_of(V *R, V *U, const V *Vh, V *scratch, int n) {
  multiply(R, U, 1, n, Vh, n, 1, n);
  for (int i = 0; i < n * n; i++) scratch[i] = R[i];
  const V sign = determinant(scratch, n);
  V *u = U + (n - 1) * n;
  const V *v = Vh + (n - 1) * n;
  for (int i = 0; i < n; i++) {
    const V lost = u[i] - sign * u[i];
    for (int j = 0; j < n; j++) R[i * n + j] -= lost * v[j];
    u[i] *= sign;
  }
  return sign;
}

/* Element j of R x. */
INLINE V turned_of(const Points *c, const V *R, int i, int j) {
  V x = {0};
  for (int k = 0; k < c->n; k++) x += R[j * c->n + k] * c->X[i * c->n + k];
  return x;
}

/* Element j of R x - y, or of c R x - y with a scale. */
INLINE V residual(const Points *c, const V *R, int i, int j) {
  return c->scale * turned_of(c, R, i, j) - c->Y[i * c->n + j];
}

#define CENTROID (1.0 / 1024) /* as CENTROID in alignment_operations.py */

/* Scale of the similarity with a rotation, 1 for points that coincide; returns the inverse
 * variance of P, or 0 where the scale is constant. */
static V find_scale(Points *c, const V *R) {
  V variance = {0}, inner = {0}, size = {0};
  for (int i = 0; i < c->m; i++)
    for (int j = 0; j < c->n; j++) {
      const V x = c->X[i * c->n + j];
      variance += c->w[i] * x * x;
      inner += c->w[i] * turned_of(c, R, i, j) * c->Y[i * c->n + j];
    }
  for (int j = 0; j < c->n; j++) size += c->p[j] * c->p[j];
  size += variance;
  const I extended = ~(variance <= (T)(ROUNDING * ROUNDING) * size); /* NaN stays */
  const I held = inner < (V){0};
  const V scale = safe_quotient(SELECT(held, (V){0}, inner), variance, extended);
  c->scale = SELECT(extended, scale, fill(1));
  return safe_quotient(fill(1), variance, extended & ~held);
}

/* Root of the mean squared distance; 0 where that is within the rounding errors of distances, or
 * a few units in the last place of the centroids. */
static V distance(const Points *c, const V *R) {
  V square = {0}, size = {0};
  for (int j = 0; j < c->n; j++)
    size += (c->scale * c->scale * c->p[j] * c->p[j] + c->q[j] * c->q[j]) * (T)CENTROID;
  for (int i = 0; i < c->m; i++)
    for (int j = 0; j < c->n; j++) {
      const V x = c->X[i * c->n + j], y = c->Y[i * c->n + j], r = residual(c, R, i, j);
      square += c->w[i] * r * r;
      size += c->w[i] * (c->scale * c->scale * x * x + y * y);
    }
  const I rounding = square <= (T)(ROUNDING * ROUNDING) * size;
  return SELECT(rounding, (V){0}, root(square));
}

/* Motion from P to Q.  Arrays: 0 P, 1 Q, 2 weights, 3 C, 4 U as rows, 5 S, 6 V^H, 7 R,
 * 8 t, 9 rmsd, 10 signs, and with number[0] = 1, for a similarity, 11 the scale.  Failed
 * is as for `svd`. */
void NAME(align)(const Task *task, int64_t begin, int64_t end, void *work) {
  const int n = (int)task->n;
  const ptrdiff_t nn = (ptrdiff_t)n * n;
  const Array *in = task->array;
  V *rest = work;
  Points c = place(task, &rest);
  V *U = rest, *Vh = U + nn, *R = Vh + nn, *S = R + nn, *signs = S + n, *t = signs + n;
  V *scratch = t + n;
  const Task svd = {.array = {in[3], in[5], in[4], in[6]}, .failed = task->failed,
                    .m = n, .n = n};
  for (int64_t at = begin; at < end; at += LANES) {
    centre(&c, in, at, end);
    for (ptrdiff_t i = 0; i < nn; i++) R[i] = (V){0};
    for (int i = 0; i < c.m; i++)
      for (int a = 0; a < n; a++)
        for (int b = 0; b < n; b++)
          R[a * n + b] += c.w[i] * c.Y[i * n + a] * c.X[i * n + b];
    unload((E *)R, n, &in[3], at, end, n, n, 0);
  }
  NAME(svd)(&svd, begin, end, scratch + nn);
  for (int64_t at = begin; at < end; at += LANES) {
    centre(&c, in, at, end);
    load((E *)U, n, &in[4], at, end, n, n, 0);
    load((E *)Vh, n, &in[6], at, end, n, n, 0);
    load_reals(S, &in[5], at, end, n);
    const I lost = ~(c.noise < S[n < 2 ? 0 : n - 2]);
    for (int i = 0; i < n; i++) {
      S[i] = SELECT((c.noise < S[i]) | ~lost, S[i], (V){0});
      signs[i] = fill(1);
    }
    signs[n - 1] = rotation_of(R, U, Vh, scratch, n);
    if (in[11].data) find_scale(&c, R);
    for (int j = 0; j < n; j++) {
      V x = {0};
      for (int k = 0; k < n; k++) x += R[j * n + k] * c.p[k];
      t[j] = (c.q[j] - c.scale * x) * c.unit;
    }
    const V rmsd = distance(&c, R) * c.unit;
    unload_reals(S, &in[5], at, end, n);
    unload((E *)R, n, &in[7], at, end, n, n, 0);
    unload_reals(t, &in[8], at, end, n);
    unload_reals(&rmsd, &in[9], at, end, 1);
    unload_reals(signs, &in[10], at, end, n);
    if (in[11].data) unload_reals(&c.scale, &in[11], at, end, 1);
  }
}

/* Replace the cotangent G of the rotation by that of C. */
static void rotation_pull(V *G, const V *U, const V *Vh, V *S, V sign, V *K, int n) {
  /* A single value at rounding level is always added to a larger one; several become 0. */
  I small = {0};
  const V least = (T)ROUNDING * S[0];
  for (int i = 0; i < n; i++) small -= S[i] <= least;
  for (int i = 0; i < n; i++)
    S[i] = SELECT((S[i] <= least) & (small != (I){0} + 1), (V){0}, S[i]);
  V *half = K + (ptrdiff_t)n * n;
  multiply(half, U, n, 1, G, n, 1, n);
  multiply(K, half, n, 1, Vh, 1, n, n);
  for (int i = 0; i < n; i++)
    for (int j = 0; j <= i; j++) {
      const V total = S[j] + S[i], gap = S[j] - S[i];
      const I reflected = i == n - 1 ? sign < (V){0} : (I){0};
      const I apart = SELECT_INT(reflected, gap > (T)ROUNDING * S[j], total > (V){0});
      V x = safe_quotient(K[j * n + i] - K[i * n + j], SELECT(reflected, gap, total), apart);
      K[j * n + i] = i == j ? (V){0} : x, K[i * n + j] = i == j ? (V){0} : -x;
    }
  multiply(half, K, n, 1, Vh, n, 1, n);
  multiply(G, U, 1, n, half, n, 1, n);
}

/* Cotangents of the points and weights.  Arrays: 0 P, 1 Q, 2 weights, 3 U as rows, 4 S,
 * 5 V^H, 6 gR, 7 gt and 8 g_rmsd, or none, 9 gP, 10 gQ, 11 that of weights, or none.  With
 * number[0] = 1, for a similarity, 11 is gc, or none. */
void NAME(align_pull)(const Task *task, int64_t begin, int64_t end, void *work) {
  const int n = (int)task->n;
  const ptrdiff_t nn = (ptrdiff_t)n * n;
  const Array *in = task->array;
  V *rest = work;
  Points c = place(task, &rest);
  V *U = rest, *Vh = U + nn, *R = Vh + nn, *B = R + nn, *K = B + nn;
  V *S = K + 2 * nn, *gt = S + n, *turned = gt + n, *x = turned + n, *y = x + n;
  const int similar = task->number[0] > 0, weighted = in[11].data && !similar;
  for (; begin < end; begin += LANES) {
    centre(&c, in, begin, end);
    load((E *)U, n, &in[3], begin, end, n, n, 0);
    load((E *)Vh, n, &in[5], begin, end, n, n, 0);
    load_reals(S, &in[4], begin, end, n);
    const V sign = rotation_of(R, U, Vh, B, n);
    for (ptrdiff_t i = 0; i < nn; i++) B[i] = (V){0};
    for (int j = 0; j < n; j++) gt[j] = (V){0};
    if (in[6].data) load((E *)B, n, &in[6], begin, end, n, n, 0);
    if (in[7].data) load_reals(gt, &in[7], begin, end, n);
    /* Half of the unit before the products, half after: neither overflows. */
    const V half = root(c.unit), inverse = 1 / half;
    V slope = {0}; /* cotangent of tr(R^T C) */
    if (similar) {
      const V of_variance = find_scale(&c, R);
      if (in[11].data) load_reals(&slope, &in[11], begin, end, 1);
      slope *= inverse;
      for (int a = 0; a < n; a++)
        for (int b = 0; b < n; b++) slope -= gt[a] * half * R[a * n + b] * c.p[b];
      slope *= of_variance;
    }
    for (int a = 0; a < n; a++)
      for (int b = 0; b < n; b++)
        B[a * n + b] = B[a * n + b] * inverse - c.scale * gt[a] * half * c.p[b];
    rotation_pull(B, U, Vh, S, sign, K, n);
    V h = {0};
    if (in[8].data) {
      load_reals(&h, &in[8], begin, end, 1);
      const V rmsd = distance(&c, R);
      h = safe_quotient(h * half, rmsd, ~(rmsd == (V){0}));
    }
    /* For the weights, K has no term of h, which would cancel although h is like 1 / rmsd. */
    for (ptrdiff_t i = 0; i < nn; i++) {
      K[i] = B[i];
      B[i] = K[i] + (slope - h * c.scale) * R[i];
    }
    const V own = (h * c.scale - 2 * slope) * c.scale;
    for (int j = 0; j < n; j++) gt[j] *= half;
    for (int j = 0; j < n; j++) {
      turned[j] = (V){0};
      for (int k = 0; k < n; k++) turned[j] += gt[k] * R[k * n + j];
      turned[j] *= c.scale;
    }
    V mean = {0};
    for (int i = 0; i < c.m; i++) {
      V *X = c.X + i * n, *Y = c.Y + i * n, gw = {0};
      for (int j = 0; j < n; j++) {
        x[j] = own * X[j] - turned[j], y[j] = h * Y[j] + gt[j];
        for (int k = 0; k < n; k++) {
          x[j] += Y[k] * B[k * n + j];
          y[j] += X[k] * B[j * n + k];
        }
      }
      if (weighted)
        for (int j = 0; j < n; j++) {
          const V r = residual(&c, R, i, j);
          V moved = {0}; /* Y gC */
          for (int k = 0; k < n; k++) moved += Y[k] * K[k * n + j];
          gw += moved * X[j] + ((T)0.5 * h * r - gt[j]) * r;
        }
      mean += c.w[i] * gw;
      for (int j = 0; j < n; j++) {
        X[j] = c.w[i] * x[j] * inverse;
        Y[j] = c.w[i] * y[j] * inverse;
      }
      c.w[i] = gw;
    }
    unload((E *)c.X, n, &in[9], begin, end, c.m, n, 0);
    unload((E *)c.Y, n, &in[10], begin, end, c.m, n, 0);
    if (!weighted) continue;
    for (int i = 0; i < c.m; i++) c.w[i] = (c.w[i] - mean) * half / c.mass;
    unload((E *)c.w, c.m, &in[11], begin, end, 1, c.m, 0);
  }
}

#endif
