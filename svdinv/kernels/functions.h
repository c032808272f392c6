#pragma once
/* Functions f of a singular value: values and divided differences.
 *
 * The formulas are those of functions.py and thresholds.py in svdinv/core, for the odd
 * extension of f.  In a Task, number[0] selects f, and number[1] is the constant of f, if it
 * has one.
 */
#include "consistent.h"

/* With RELATIVE added, tau is a multiple of the largest value, or of 1 if that is 0. */
enum {
  GIVEN, SOFT, HARD, RANK, LARGEST, RECIPROCAL, TIKHONOV, SAMPLED, WHITENING,
  RELATIVE = 16
};

#define FUNCTION(task) ((int)(task)->number[0] & ~RELATIVE)
#define IS_RELATIVE(task) ((int)(task)->number[0] & RELATIVE)

/* Whether f has a jump at 0, so that f(s) / s may be large. */
INLINE int jumps_at_zero(int f) { return f == GIVEN || f == LARGEST || f == RECIPROCAL; }

/* `needs_unitary` in functions.py: where f is large beside s, nothing is computed outside
 * the ranges of square U and V. */
INLINE int needs_unitary(const Task *task) {
  const int f = FUNCTION(task);
  return f == LARGEST ? task->number[1] != 1 : f == SAMPLED || jumps_at_zero(f);
}

/* Size, relative to the largest, up to which f is 0. */
INLINE T cutoff(const Task *task) {
  return task->number[1] > ROUNDING ? (T)task->number[1] : (T)ROUNDING;
}

/* Gradient of the sum of the `count` largest values, or of all if that is 0; values
 * equal to the last of them share the rest of the count. */
static void shares(V *y, const V *s, int count, int n) {
  const V rounding = (T)ROUNDING * s[0], one = fill(1), none = {0};
  const V last = count ? s[count - 1] : none;
  const V high = last + rounding, low = count ? last - rounding : rounding;
  V left = fill(count), equal = {0};
  for (int i = 0; i < n; i++) {
    const I above = s[i] > high, below = s[i] < low;
    left -= SELECT(above, one, none);
    equal += SELECT(above | below, none, one);
  }
  const I some = (equal > none) & (last > rounding);
  const V share = safe_quotient(left, equal, some);
  for (int i = 0; i < n; i++) {
    const I above = s[i] > high, below = s[i] < low;
    y[i] = SELECT(above, one, SELECT(below, none, share));
  }
}

/* y = f(s), where y may be s itself; `from` is tau, one number for each matrix, if f
 * has one.  Returns tau. */
static V function_of(V *y, const V *s, const Task *task, const Array *from,
                     int64_t begin, int64_t end, int n) {
  const int f = FUNCTION(task), rank = f == RANK ? (int)task->number[1] : n;
  const T cut = cutoff(task);
  const V top = s[0], zero = {0};
  V tau = {0};
  if (from->data) load_reals(&tau, from, begin, end, 1);
  if (IS_RELATIVE(task)) tau *= SELECT(top == zero, fill(1), top);
  if (f == LARGEST) {
    shares(y, s, task->number[1] < n ? (int)task->number[1] : n, n);
    return tau;
  }
  const V least = f == RECIPROCAL ? cut * top : tau;
  const V added = f == WHITENING ? tau : tau * tau, size = cut * cut * (top * top + added);
  const I known = tau == tau;
  for (int i = 0; i < n; i++) {
    const V x = s[i], square = x * x + added;
    const I large = ~(square <= size);
    if (f == TIKHONOV) y[i] = safe_quotient(x, square, large);
    else if (f == WHITENING) y[i] = safe_quotient(x, root(square), large);
    else if (f == RECIPROCAL) y[i] = safe_quotient(fill(1), x, ~(x <= least));
    else if (f == RANK) y[i] = i < rank ? SELECT(x > zero, x, zero) : zero;
    else {
      const V kept = SELECT(x > least, f == SOFT ? x - tau : x, zero);
      y[i] = SELECT(known, kept, tau);
    }
  }
  return tau;
}

/* D-, and the slope of y in tau, of a function with the derivative 1 where y is not 0, and
 * everywhere in the lanes of `every`: a tau of 0 keeps zeros, too. */
static void threshold_differences(V *minus, V *slope, const V *s, const V *y, I every,
                                  int soft, int n) {
  const V zero = {0}, one = fill(1);
  const V least = soft ? fill(-1) : (T)ROUNDING * s[0]; /* across a jump */
  for (int i = 0; i < n; i++) {
    const I moves = y[i] > zero, kept = moves | every;
    const V level = SELECT(kept, one, zero);
    slope[i] = soft ? SELECT(moves, -one, zero) : zero;
    for (int j = 0; j < n; j++) {
      const I alike = kept == ((y[j] > zero) | every);
      const V gap = s[i] - s[j];
      const V less = safe_quotient(y[i] - y[j], gap, ~(alike | (magnitude(gap) <= least)));
      minus[i * n + j] = SELECT(alike, level, less);
    }
  }
}

/* The same for s / (s^2 + tau^2): u of 1 / z = u - i v for z = s + i tau, whose divided
 * differences are products. */
static void tikhonov_differences(V *minus, V *slope, const V *s, const V *u, V tau, T cut,
                                 int n) {
  const V zero = {0}, size = cut * cut * (s[0] * s[0] + tau * tau);
  V *v = slope;
  for (int i = 0; i < n; i++) {
    const V square = s[i] * s[i] + tau * tau;
    v[i] = safe_quotient(tau, square, ~(square <= size));
  }
  for (int i = 0; i < n; i++)
    for (int j = 0; j <= i; j++) {
      const I first = ~((u[i] == zero) & (v[i] == zero));
      const I both = first & ~((u[j] == zero) & (v[j] == zero));
      const V gap = s[i] - s[j];
      const V apart = safe_quotient(u[i] - u[j], gap, ~(gap == zero));
      const V less = SELECT(both, v[i] * v[j] - u[i] * u[j], apart);
      minus[i * n + j] = minus[j * n + i] = less;
    }
  for (int i = 0; i < n; i++) slope[i] = -2 * u[i] * v[i];
}

/* The same for s / sqrt(s^2 + tau). */
static void whitening_differences(V *minus, V *slope, const V *s, const V *y, V tau, T cut,
                                  int n) {
  const V size = cut * cut * (s[0] * s[0] + tau), one = fill(1);
  V *r = slope; /* 0 where f is cut */
  for (int i = 0; i < n; i++) {
    const V square = s[i] * s[i] + tau;
    r[i] = SELECT(~(square <= size), root(square), (V){0});
  }
  for (int i = 0; i < n; i++)
    for (int j = 0; j <= i; j++) {
      const I both = ~((r[i] == (V){0}) | (r[j] == (V){0}));
      const V gap = s[i] - s[j], P = s[i] * s[j] + r[i] * r[j] + tau;
      const V a = SELECT(both, r[i], one), b = SELECT(both, r[j], one);
      const V inside = safe_quotient(tau * (1 / a + 1 / b), P, both);
      const V apart = safe_quotient(y[i] - y[j], gap, ~(gap == (V){0}));
      minus[i * n + j] = minus[j * n + i] = SELECT(both, inside, apart);
    }
  for (int i = 0; i < n; i++) {
    const I kept = ~(r[i] == (V){0});
    slope[i] = -safe_quotient(y[i], 2 * r[i] * r[i], kept);
  }
}

/* D-, D+ and phi of a function with a jump at 0, as `coefficients` in spectral.py; `s`
 * becomes 0 where nothing may be divided by it. */
static void step_differences(V *minus, V *plus, V *phi, V *s, const V *y, int closed,
                             int reciprocal, int n) {
  const V least = (T)ROUNDING * s[0];
  I number = {0};
  for (int i = 0; i < n; i++) number -= s[i] <= least;
  const I single = closed ? number == 1 : (I){0}; /* added to a larger one */
  for (int i = 0; i < n; i++) {
    const I small = s[i] <= least, zero = small & ~(single & (y[i] != (V){0}));
    s[i] = SELECT(zero, (V){0}, s[i]);
    phi[i] = safe_quotient(y[i], s[i], s[i] > (V){0});
    for (int j = 0; j <= i; j++) {
      const V both = s[i] + s[j], gap = s[j] - s[i];
      const V level = (T)ROUNDING * greater(s[i], s[j]), both_y = y[i] * y[j];
      const I apart = reciprocal ? gap != (V){0} : magnitude(gap) > level;
      V less = safe_quotient(y[j] - y[i], gap, apart);
      if (reciprocal) less = SELECT(both_y == (V){0}, less, -both_y);
      V more = SELECT(both > (V){0}, safe_quotient(y[i] + y[j], both, both > (V){0}), less);
      if (i == j) more = COMPLEX ? SELECT(small & ~zero, less, more) : less;
      minus[i * n + j] = minus[j * n + i] = less;
      plus[i * n + j] = plus[j * n + i] = more;
    }
  }
}

/* D+ and phi; where their divisor is 0, they are the slope in D-. */
static void sum_quotients(V *plus, V *phi, const V *minus, const V *s, const V *y, int n) {
  const V zero = {0};
  for (int i = 0; i < n; i++) {
    const I positive = s[i] > zero;
    phi[i] = SELECT(positive, safe_quotient(y[i], s[i], positive), minus[i * n + i]);
    for (int j = 0; j < n; j++) {
      const V total = s[i] + s[j];
      const V more = safe_quotient(y[i] + y[j], total, total > zero);
      plus[i * n + j] = SELECT(total > zero, more, minus[i * n + j]);
    }
  }
}

/* Divided differences of y = f(s), with D- and D+ of shape (n, n), and the slope of f in tau.
 * `closed` says that nothing lies outside the ranges; then a single value at rounding level is
 * kept in s and has a derivative.  For SAMPLED, D- is given and becomes 0 on its diagonal. */
static void divided_differences(V *minus, V *plus, V *phi, V *slope, V *s, const V *y,
                                 V tau, const Task *task, int closed, int n) {
  const int f = FUNCTION(task);
  for (int i = 0; i < n; i++) slope[i] = (V){0};
  if (jumps_at_zero(f)) {
    step_differences(minus, plus, phi, s, y, closed, f == RECIPROCAL, n);
    return;
  }
  if (f == TIKHONOV) {
    tikhonov_differences(minus, slope, s, y, tau, cutoff(task), n);
  } else if (f == WHITENING) {
    whitening_differences(minus, slope, s, y, tau, cutoff(task), n);
  } else if (f != SAMPLED) {
    const I every = f == RANK ? fill_int(-(n <= task->number[1])) : tau == (V){0};
    threshold_differences(minus, slope, s, y, every, f == SOFT, n);
  }
  sum_quotients(plus, phi, minus, s, y, n);
  for (int i = 0; f == SAMPLED && i < n; i++) minus[i * n + i] = (V){0};
}
