#pragma once
/* The iterations of singular value and eigendecompositions, and what leads to them. */
#include "lanes.h"
#include "subnormal.h"

/* ---- Householder reflections --------------------------------------------------- */

/* H = 1 - tau v v^H with v = (1, ...) and H^H x = beta e_1, beta real (LAPACK's larfg).
 * x[k * step] for 0 < k < length is replaced by v. */
INLINE V reflector(E *x, ptrdiff_t step, int length, E *tau) {
  const V zero = {0};
  V rest = zero;
  for (int k = 1; k < length; k++) rest += square(x[k * step]);
  E pivot = x[0];
  V head = pivot.part[0], whole = square(pivot) + rest;
  I none = rest == zero;
#if COMPLEX
  none &= pivot.part[1] == zero;
#endif
  none |= whole < (T)TINY; /* a square that has lost digits gives no reflection */
  V norm = root(whole);
  V beta = SELECT(none, head, SELECT(head > zero, -norm, norm));
  pivot.part[0] -= beta;
  E inverse = conjugate(scaled(pivot, 1 / SELECT(none, fill(1), square(pivot))));
  *tau = scaled(pivot, -1 / SELECT(none, fill(1), beta));
  for (int p = 0; p < PARTS; p++) {
    tau->part[p] = SELECT(none, zero, tau->part[p]);
    inverse.part[p] = SELECT(none, zero, inverse.part[p]);
  }
  for (int k = 1; k < length; k++) x[k * step] = times(x[k * step], inverse);
  return beta;
}

/* ---- plane rotations ------------------------------------------------------------ */

typedef struct { V c, s; } Rotation;

/* (c, s, r) with c f + s g = r and c g - s f = 0; the identity in lanes outside the mask. */
INLINE Rotation rotation(V f, V g, I on, V *r) {
  const V zero = {0}, one = fill(1);
  V size = f * f + g * g;
  I ok = size > (T)TINY;
  V norm = root(size), inverse = 1 / SELECT(ok, norm, one);
  V c = f * inverse, s = g * inverse;
  /* One Newton step: the rounding of `inverse` would stretch every vector alike. */
  V excess = (s * s + (c * c - 1)) * (T)0.5;
  c -= c * excess;
  s -= s * excess;
  *r = SELECT(ok, norm, f);
  ok &= on;
  return (Rotation){SELECT(ok, c, one), SELECT(ok, s, zero)};
}

/* An orthogonal matrix of n vectors with n components in strips of components, and the
 * rotations of up to SWEEPS sweeps that are still to be applied to it: together, so
 * that a strip stays in the first cache. */
#define SWEEPS 8
#if ONE
typedef Row Component; /* several of one vector */
typedef T Coefficient;
#define PER_COMPONENT COLUMNS
#define COEFFICIENT(x) ((x)[0])
#else
typedef V Component; /* one of each matrix */
typedef V Coefficient;
#define PER_COMPONENT 1
#define COEFFICIENT(x) (x)
#endif

typedef struct {
  Component *vectors; /* k of vector i: [k / STRIP][i][k % STRIP] */
  Rotation *rotations; /* SWEEPS rows of n */
  int count, low[SWEEPS], high[SWEEPS];
} Basis;

#define STRIPS(n) (((n) + STRIP * PER_COMPONENT - 1) / (STRIP * PER_COMPONENT))
#define BASIS(n) ((ptrdiff_t)STRIPS(n) * STRIP * (n))

INLINE Component *component(const Basis *basis, int n, int i, int k) {
  return basis->vectors + ((ptrdiff_t)(k / STRIP) * n + i) * STRIP + k % STRIP;
}

static void eye(Basis *basis, int n) {
  for (ptrdiff_t i = 0; i < BASIS(n); i++) basis->vectors[i] = (Component){0};
  for (int i = 0; i < n; i++) {
#if ONE
    (*component(basis, n, i, i / COLUMNS))[i % COLUMNS] = 1;
#else
    *component(basis, n, i, i) = fill(1);
#endif
  }
  basis->count = 0;
}

static void rotate(Basis *basis, int n) {
  for (int k = 0; k < STRIPS(n); k++)
    for (int sweep = 0; sweep < basis->count; sweep++) {
      const Rotation *restrict R = basis->rotations + (ptrdiff_t)sweep * n;
      const int low = basis->low[sweep], high = basis->high[sweep];
      Component *restrict x = basis->vectors + ((ptrdiff_t)k * n + low) * STRIP;
      Component f[STRIP];
      for (int q = 0; q < STRIP; q++) f[q] = x[q];
      for (int i = low; i < high; i++, x += STRIP) {
        const Coefficient c = COEFFICIENT(R[i].c), s = COEFFICIENT(R[i].s);
        for (int q = 0; q < STRIP; q++) {
          const Component h = x[STRIP + q];
          x[q] = c * f[q] + s * h;
          f[q] = c * h - s * f[q];
        }
      }
      for (int q = 0; q < STRIP; q++) x[q] = f[q];
    }
  basis->count = 0;
}

INLINE void keep(Basis *basis, int low, int high, int n) {
  if (low >= high) return;
  basis->low[basis->count] = low;
  basis->high[basis->count++] = high;
  if (basis->count == SWEEPS) rotate(basis, n);
}

INLINE Rotation *next(Basis *basis, int n) {
  return basis->rotations + (ptrdiff_t)basis->count * n;
}

/* ---- implicit QR ------------------------------------------------------------------ */

/* The windows [low, high] of the lanes of a group: the last of their blocks in which no
 * off-diagonal element is negligible. */
typedef struct {
  I low, high, active, singular;
  V floor; /* what is negligible in any case */
  int bottom, top; /* union over the lanes */
} Window;

INLINE void whole(Window *w, const V *d, const V *e, int n) {
  V norm = {0};
  for (int i = 0; i < n; i++)
    norm = greater(norm, greater(magnitude(d[i * GROUPS]), magnitude(e[i * GROUPS])));
  w->floor = norm * (T)(EPS * 0.5);
  w->high = fill_int(n - 1);
}

/* Deflate, narrow the windows, and find which of them hold a zero on the diagonal. */
INLINE void narrow(Window *w, const V *d, V *e, int n) {
  const V floor = w->floor;
  I high = w->high, low = high, open = {0}, singular = {0};
  for (int i = largest(high) - 1; i >= 0; i--) {
    V here = magnitude(d[i * GROUPS]), after = magnitude(d[(i + 1) * GROUPS]);
    V scale = greater(floor, (here + after) * (T)(2 * EPS)), *side = e + i * GROUPS;
    I negligible = magnitude(*side) <= scale, below = high == i + 1;
    *side = SELECT(negligible, (V){0}, *side);
    high = SELECT_INT(below & negligible, fill_int(i), high);
    open = (open | below) & ~negligible;
    low = SELECT_INT(open, fill_int(i), low);
    singular |= open & ((here <= floor) | (after <= floor));
  }
  w->active = high > low;
  w->high = high, w->low = low, w->singular = singular;
  w->bottom = least(SELECT_INT(w->active, low, fill_int(n)));
  w->top = largest(high & w->active);
}

/* Element `at` of the lanes. */
INLINE V gather(const V *x, I at) {
  V r;
  for (int t = 0; t < LANES; t++) r[t] = x[(ptrdiff_t)at[t] * GROUPS][t];
  return r;
}

/* Smaller singular value of (f, g; 0, h). */
INLINE V smaller_value(V f, V g, V h) {
  f = magnitude(f), h = magnitude(h);
  V sum = f + h, gap = f - h, gg = g * g;
  V total = root(sum * sum + gg) + root(gap * gap + gg);
  I some = total > (T)TINY;
  return SELECT(some, 2 * f * (h / SELECT(some, total, fill(1))), (V){0});
}

#define EACH for (int u = 0; u < GROUPS; u++)

/* Golub and Kahan's iteration on GROUPS groups of real bidiagonal matrices: their steps
 * alternate, because each waits long for its roots and quotients.  Every lane has its
 * own window and shift; a sweep runs over the union of the windows, and is the identity
 * outside each.  `left_over` marks the lanes that have not converged after the last sweep. */
static void bidiagonal_qr(V *restrict d, V *restrict e, int n, Basis *left,
                          Basis *right, I *left_over) {
  const V zero = {0};
  Window w[GROUPS];
  I idle[GROUPS] = {0};
  EACH whole(&w[u], d + u, e + u, n);
  for (int sweep = 0; sweep < 30 * (n + 1); sweep++) {
    V f[GROUPS], g[GROUPS], f0[GROUPS], g0[GROUPS];
    Rotation *R[GROUPS], *L[GROUPS];
    int bottom = n, top = 0;
    EACH {
      I before = w[u].high;
      narrow(&w[u], d + u, e + u, n);
      if (w[u].bottom < bottom) bottom = w[u].bottom;
      if (w[u].top > top) top = w[u].top;
      /* A sweep without shift, should eight make no progress. */
      idle[u] = (idle[u] + 1) & (w[u].high == before);
      I rest = w[u].singular | (idle[u] >= 8);
      idle[u] &= idle[u] < 8;
      I last = SELECT_INT(w[u].active, w[u].high - 1, (I){0});
      V shift = smaller_value(gather(d + u, last), gather(e + u, last),
                              gather(d + u, w[u].high));
      shift = SELECT(rest, zero, shift);
      V first = gather(d + u, w[u].low), side = gather(e + u, w[u].low);
      V size = magnitude(first), scale = greater(size, shift);
      I some = scale > zero;
      scale = 1 / SELECT(some, scale, fill(1));
      /* first^2 - shift^2 : first side, and 0 : 1 where first and shift are zero */
      f0[u] = (size - shift) * scale * (size + shift);
      g0[u] = SELECT(some, first * scale * side, side);
      f[u] = g[u] = zero;
      R[u] = next(&right[u], n);
      L[u] = next(&left[u], n);
    }
    if (top == 0) break;
    for (int i = bottom; i < top; i++) EACH {
      V *di = d + i * GROUPS + u, *ei = e + i * GROUPS + u;
      const I start = w[u].low == i;
      const I on = w[u].active & (w[u].low <= i) & (w[u].high > i);
      V r;
      Rotation z = rotation(SELECT(start, f0[u], f[u]), SELECT(start, g0[u], g[u]), on, &r);
      R[u][i] = z;
      if (i > bottom) ei[-GROUPS] = SELECT(on & ~start, r, ei[-GROUPS]);
      const V side = z.c * *ei - z.s * *di, end = z.c * di[GROUPS];
      z = rotation(z.c * *di + z.s * *ei, z.s * di[GROUPS], on, &r);
      L[u][i] = z;
      *di = SELECT(on, r, *di);
      di[GROUPS] = z.c * end - z.s * side;
      f[u] = z.c * side + z.s * end;
      *ei = SELECT(on, f[u], *ei);
      g[u] = z.s * ei[GROUPS]; /* zero at the end of a window, as that element is */
      ei[GROUPS] = z.c * ei[GROUPS];
    }
    EACH {
      keep(&left[u], w[u].bottom, w[u].top, n);
      keep(&right[u], w[u].bottom, w[u].top, n);
    }
  }
  EACH {
    rotate(&left[u], n);
    rotate(&right[u], n);
    left_over[u] = w[u].high > 0;
  }
}

/* The same for real symmetric tridiagonal matrices, with Wilkinson's shift. */
static void tridiagonal_qr(V *restrict d, V *restrict e, int n, Basis *basis,
                           I *left_over) {
  const V zero = {0};
  Window w[GROUPS];
  EACH whole(&w[u], d + u, e + u, n);
  for (int sweep = 0; sweep < 30 * (n + 1); sweep++) {
    V f[GROUPS], g[GROUPS], f0[GROUPS], g0[GROUPS];
    Rotation *R[GROUPS];
    int bottom = n, top = 0;
    EACH {
      narrow(&w[u], d + u, e + u, n);
      if (w[u].bottom < bottom) bottom = w[u].bottom;
      if (w[u].top > top) top = w[u].top;
      I last = SELECT_INT(w[u].active, w[u].high - 1, (I){0});
      V h = gather(d + u, w[u].high), b = gather(e + u, last);
      V half = (gather(d + u, last) - h) * (T)0.5, radius = root(half * half + b * b);
      V by = half + SELECT(half < zero, -radius, radius);
      I some = by != zero;
      V shift = h - SELECT(some, b * (b / SELECT(some, by, fill(1))), zero);
      f0[u] = gather(d + u, w[u].low) - shift;
      g0[u] = gather(e + u, w[u].low);
      f[u] = g[u] = zero;
      R[u] = next(&basis[u], n);
    }
    if (top == 0) break;
    for (int i = bottom; i < top; i++) EACH {
      V *di = d + i * GROUPS + u, *ei = e + i * GROUPS + u;
      const I start = w[u].low == i;
      const I on = w[u].active & (w[u].low <= i) & (w[u].high > i);
      V r;
      Rotation z = rotation(SELECT(start, f0[u], f[u]), SELECT(start, g0[u], g[u]), on, &r);
      R[u][i] = z;
      if (i > bottom) ei[-GROUPS] = SELECT(on & ~start, r, ei[-GROUPS]);
      const V turn = (di[GROUPS] - *di) * z.s + 2 * z.c * *ei, move = z.s * turn;
      *di += move;
      di[GROUPS] -= move;
      f[u] = z.c * turn - *ei;
      *ei = SELECT(on, f[u], *ei);
      g[u] = z.s * ei[GROUPS];
      ei[GROUPS] = z.c * ei[GROUPS];
    }
    EACH keep(&basis[u], w[u].bottom, w[u].top, n);
  }
  EACH {
    rotate(&basis[u], n);
    left_over[u] = w[u].high > 0;
  }
}

/* ---- scale ------------------------------------------------------------------------ */

static int exponent(T x) {
  int k = 0;
  if (x == 0) return 0;
  for (; x >= (T)1; k += 16) x *= (T)0x1p-16;
  for (; x < (T)0x1p-16; k -= 16) x *= (T)0x1p16;
  for (; x < (T)0.5; k--) x *= 2;
  return k;
}

/* Order of the values in each lane, descending or ascending: place[i][t] is where
 * value i of lane t goes.  Equal values keep their order. */
static void order(const V *d, int n, int descending, I *place) {
  for (int i = 0; i < n; i++) {
    I before = {0};
    for (int j = 0; j < n; j++) {
      V x = d[j * GROUPS], y = d[i * GROUPS];
      I first = descending ? x > y : x < y;
      if (j < i) first |= x == y;
      before -= first;
    }
    place[i] = before;
  }
}

