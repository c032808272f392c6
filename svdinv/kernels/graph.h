#pragma once
/* Kernels in the graphs of a framework, whose arrays are contiguous buffers with shapes that are
 * known when the graph runs.
 *
 * A plan holds 64-bit integers: a version, kind, type, the bits of both numbers, and for each
 * of the twelve arrays its buffer, the number of its axes after those of the batch, and
 * flags.  Buffers are numbered through the operands and then the results; -1 is none.
 */
#include <string.h>

#include "call.h"
#include "tall.h"

#define VERSION 3 /* of the meaning of a plan, which saved graphs contain */
enum { PLAN_VERSION, PLAN_KIND, PLAN_TYPE, PLAN_NUMBERS, PLAN_ARRAYS = 5, PLAN_LENGTH = 41 };
enum { BUFFER, AXES, FLAGS };
enum {
  TRANSPOSED = 1, /* the buffer holds the transposes of the kernel's matrices */
  REAL = 2,       /* a real array beside complex matrices */
  PAIRS = 4       /* numbers of double precision as pairs of single ones */
};

typedef struct {
  void *data;
  int64_t rank;
  const int64_t *dims;
} Buffer;

typedef struct {
  int64_t axes; /* of the batch */
  const int64_t *dims;
  int64_t batch, m, n;
} Sizes;

static inline const int64_t *array_of(const int64_t *plan, int array) {
  return plan + PLAN_ARRAYS + 3 * array;
}

/* Length of axis 2 (rows) or 1 (columns) of an array, counted from the last. */
static inline int64_t length_of(const int64_t *array, const Buffer *buffer, int axis) {
  if (array[FLAGS] & TRANSPOSED) axis = 3 - axis;
  return buffer->dims[buffer->rank - axis];
}

/* The array whose rows (axis 2) or columns (axis 1) are those of the matrices. */
static inline const int64_t *sized_by(const int64_t *plan, int axis) {
  static const signed char with_columns[KINDS] = {
      [MAP] = 2, [DERIVATIVE] = 1, [SVD_PULL] = 2, [PRODUCT] = 1};
  return array_of(plan, axis == 2 ? 0 : with_columns[plan[PLAN_KIND]]);
}

/* Shape of the batch and of the matrices, from the operands. */
static inline Sizes sizes_of(const int64_t *plan, const Buffer *operands) {
  const int64_t kind = plan[PLAN_KIND];
  const int64_t *rows = sized_by(plan, 2), *columns = sized_by(plan, 1);
  const Buffer *first = operands + rows[BUFFER];
  Sizes sizes = {.axes = first->rank - rows[AXES], .dims = first->dims, .batch = 1};
  for (int64_t i = 0; i < sizes.axes; i++) sizes.batch *= first->dims[i];
  sizes.m = length_of(rows, first, 2);
  sizes.n = length_of(columns, operands + columns[BUFFER], 1);
  if (kind == TALL_EIGEN) { /* an axis of blocks, and square matrices */
    sizes.n = sizes.m;
    sizes.m = first->dims[first->rank - 3] * TALL_ROWS;
  }
  return sizes;
}

static inline int run_plan(const int64_t *plan, const Sizes *sizes, const Buffer *buffers) {
  Call call = {.kind = plan[PLAN_KIND], .type = plan[PLAN_TYPE], .batch = sizes->batch,
               .m = sizes->m, .n = sizes->n};
  void *address[ARRAYS] = {0};
  memcpy(call.number, plan + PLAN_NUMBERS, sizeof call.number);
  for (int i = 0; i < ARRAYS; i++) {
    const int64_t *array = array_of(plan, i);
    if (array[BUFFER] < 0) continue;
    const Buffer *buffer = buffers + array[BUFFER];
    const int64_t parts = call.type < 2 || array[FLAGS] & REAL ? 1 : 2;
    int64_t *stride = call.stride[i];
    address[i] = buffer->data;
    stride[0] = stride[2] = parts;
    if (array[AXES] == 0) continue;
    const int64_t last = buffer->dims[buffer->rank - 1] / (array[FLAGS] & PAIRS ? 2 : 1);
    stride[0] = last * parts;
    if (array[AXES] == 1) continue;
    stride[0] *= buffer->dims[buffer->rank - 2];
    stride[1] = last * parts;
    if (array[FLAGS] & TRANSPOSED) stride[2] = stride[1], stride[1] = parts;
  }
  return svdinv_run(&call, address, 0);
}
