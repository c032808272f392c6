#pragma once
/* The consistent rule for repeated singular values and eigenvalues.
 *
 * Values are scaled by the power of two nearest the largest, s in descending and w in
 * ascending order.
 */
#include "lanes.h"

#if DOUBLE
#define LEAST DBL_MIN
#else
#define LEAST FLT_MIN
#endif
#define SPACING (2 * EPS)
#define ROUNDING (64 * SPACING) /* size up to which a value may be a rounding error */

typedef struct {
  int n;
  T near;      /* gap below which other estimates compete with the plain quotient */
  T epsilon;   /* precision of the cotangents */
  int banded;  /* leave pairs of a cluster that are not within reach of each other */
  T reach;     /* gap up to which two values are within reach, if `banded` */
  const V *s;  /* scaled values */
  const E *M, *N; /* U^H gU and (V^H gV)^H */
  I *cluster;  /* first value of the cluster that each is in, or -1 */
  V scale;     /* divisor of cotangents, whose squares would under- or overflow */
  V most;      /* largest element of g */
  V *g, *size; /* cotangents of s, and the largest of each pair of vectors */
  V *b;        /* diagonal of herm(M + N) / 2 */
  V *inverse;  /* 1 / s, or for eigenvalues an estimate of |f'/f| */
  V *rho, *error; /* log_derivative */
  I *linear;   /* where f may be linear in s, and cotangents vanish with s */
} Rule;

#define RULE_VALUES 8 /* arrays of n vectors that a rule needs */

/* Lay out a rule for n values: RULE_VALUES * n vectors of memory. */
void NAME(place_rule)(Rule *r, int n, double near, double epsilon, void *memory);

/* Find the clusters: values within reach of the next, or up to `negligible`.  Returns
 * whether any lane has one. */
int NAME(find_clusters)(Rule *r, T negligible);

/* Overwrite the middle factor B within clusters by the rule; g are the cotangents of s. */
void NAME(apply_rule)(Rule *r, E *B, const V *g, int hermitian);

/* 1 / s, and 0 where the cotangents G, shape (m, n), of vectors outside the range do not
 * vanish with their s: `outside_weight`. */
void NAME(outside_weight)(V *weight, const V *s, const E *G, const V *g, int m, int n);
