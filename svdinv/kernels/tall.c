/* Products of tall matrices of single precision, computed in double precision: their Gram
 * matrices, and products with small matrices.
 *
 * Products of two numbers are exact then, and sums nearly so.  Here the lanes hold rows of
 * one matrix.  A matrix is cut into blocks of TALL_ROWS rows, whatever the number of
 * threads, so that sums do not depend on it.
 */
#include "lanes.h"
#include "tall.h"

#if DOUBLE

#define TILE 4
#define SHORT_TILE (TILE / PARTS) /* so that the sums of a tile fit into the registers */
#define WHOLE (LANES / PARTS > TILE ? LANES / PARTS : TILE)
#define PANEL_BYTES 24576 /* of rows that stay in the first cache */

typedef struct {
  int n, conj;
  int groups;     /* vectors of rows in a panel */
  ptrdiff_t lead; /* columns, rounded up to whole tiles and vectors */
  T *buffer;      /* of LANES rows, `lead` elements each, zero beyond the columns */
} Panel;

static Panel panel_of(const Task *task) {
  Panel p = {.n = (int)task->n, .conj = (int)task->adjoint};
  p.lead = (p.n + WHOLE - 1) / WHOLE * WHOLE;
  p.groups = (int)(PANEL_BYTES / (p.lead * (ptrdiff_t)sizeof(E))) / TILE * TILE;
  if (p.groups < TILE) p.groups = TILE;
  return p;
}

/* Memory that a call needs, in bytes. */
int64_t NAME(tall_memory)(int m, int n) {
  (void)m;
  const Task task = {.n = n};
  const Panel p = panel_of(&task);
  return (2 * p.groups + p.lead + 1) * p.lead * (int64_t)sizeof(E);
}

/* Consecutive numbers, from memory and back. */
INLINE void read_run(T *to, const Array *A, int64_t at, ptrdiff_t count) {
  const float *from = (const float *)A->data + at;
  for (ptrdiff_t i = 0; i < count; i++) to[i] = (T)from[i];
}

INLINE void write_run(const Array *A, int64_t at, const T *from, ptrdiff_t count) {
  float *to = (float *)A->data + at;
  for (ptrdiff_t i = 0; i < count; i++) to[i] = (float)from[i];
}

/* Separate interleaved real and imaginary parts, and interleave them again. */
#define REAL_OF(t, d) (2 * (t) + (d))
#define LOW(t, d) (((t) & 1) * LANES + (t) / 2 + (d))
INLINE E parted(const V *r) {
#if COMPLEX
  return (E){{__builtin_shufflevector(r[0], r[1], OF_ALL(REAL_OF, 0, 0)),
              __builtin_shufflevector(r[0], r[1], OF_ALL(REAL_OF, 0, 1))}};
#else
  return (E){{r[0]}};
#endif
}

INLINE void joined(V *r, E x) {
#if COMPLEX
  r[0] = __builtin_shufflevector(x.part[0], x.part[1], OF_ALL(LOW, 0, 0));
  r[1] = __builtin_shufflevector(x.part[0], x.part[1], OF_ALL(LOW, 0, (LANES / 2)));
#else
  r[0] = x.part[0];
#endif
}

/* Whether rows are read and written as runs: a few numbers are faster one by one. */
INLINE int in_runs(const Array *A, ptrdiff_t count) {
  return A->column == PARTS && count >= LANES / 2;
}

/* Read `rows` rows, of which the first begins at number `at`; unused lanes become zero. */
static void read_rows(E *to, const Array *A, int64_t at, int64_t rows, const Panel *p) {
  const ptrdiff_t count = (ptrdiff_t)p->n * PARTS, whole = p->lead * PARTS;
  if (in_runs(A, count)) {
    const T *from[LANES];
    for (int t = 0; t < LANES; t++) {
      from[t] = t < rows ? p->buffer + t * whole : 0;
      if (t < rows) read_run(p->buffer + t * whole, A, at + t * A->row, count);
    }
    load_run(to, 1, from, whole, p->conj);
    return;
  }
  for (int k = 0; k < p->n; k++, at += A->column) {
    T here[LANES * PARTS] = {0};
    if (A->row == PARTS && rows >= LANES) read_run(here, A, at, LANES * PARTS);
    else
      for (int t = 0; t < LANES && t < rows; t++)
        read_run(here + t * PARTS, A, at + t * A->row, PARTS);
    V r[PARTS];
    memcpy(r, here, sizeof r);
    to[k] = p->conj ? conjugate(parted(r)) : parted(r);
  }
}

static void write_rows(const E *x, const Array *A, int64_t at, int64_t rows, const Panel *p) {
  const ptrdiff_t count = (ptrdiff_t)p->n * PARTS, whole = p->lead * PARTS;
  if (in_runs(A, count)) {
    T *to[LANES];
    for (int t = 0; t < LANES; t++) to[t] = p->buffer + t * whole;
    unload_run(x, 1, to, whole, p->conj, (V){0});
    for (int t = 0; t < LANES && t < rows; t++) write_run(A, at + t * A->row, to[t], count);
    return;
  }
  for (int k = 0; k < p->n; k++, at += A->column) {
    T here[LANES * PARTS];
    V r[PARTS];
    joined(r, p->conj ? conjugate(x[k]) : x[k]);
    memcpy(here, r, sizeof r);
    if (A->row == PARTS && rows >= LANES) write_run(A, at, here, LANES * PARTS);
    else
      for (int t = 0; t < LANES && t < rows; t++)
        write_run(A, at + t * A->row, here + t * PARTS, PARTS);
  }
}

/* Read a panel from row `row` on, before row `end`; unused rows and columns are zero. */
static void read_panel(E *to, const Array *A, int64_t matrix, int64_t row, int64_t end,
                       const Panel *p) {
  for (int g = 0; g < p->groups; g++, row += LANES) {
    E *here = to + g * p->lead;
    if (row < end) read_rows(here, A, matrix * A->matrix + row * A->row, end - row, p);
    else memset(here, 0, (size_t)p->lead * sizeof *here);
    for (ptrdiff_t k = p->n; k < p->lead; k++) here[k] = (E){0};
  }
}

/* A^H A of each block, shape (n, n).  Arrays: 0 A of single precision, 1 the results. */
void NAME(tall_gram)(const Task *task, int64_t begin, int64_t end, void *work) {
  Panel p = panel_of(task);
  const Array *in = task->array;
  const ptrdiff_t lead = p.lead;
  const int64_t blocks = TALL_BLOCKS(task->m);
  E *a = work, *sums = a + p.groups * lead;
  p.buffer = (T *)(sums + lead * lead);
  memset(p.buffer, 0, (size_t)lead * sizeof(E));
  for (; begin < end; begin++) {
    const int64_t matrix = begin / blocks, first = begin % blocks * TALL_ROWS;
    const int64_t last = first + TALL_ROWS < task->m ? first + TALL_ROWS : task->m;
    memset(sums, 0, (size_t)(lead * lead) * sizeof *sums);
    for (int64_t row = first; row < last; row += p.groups * LANES) {
      read_panel(a, &in[0], matrix, row, last, &p);
      for (ptrdiff_t i = 0; i < p.n; i += SHORT_TILE)
        for (ptrdiff_t j = i / TILE * TILE; j < p.n; j += TILE) {
          E s[SHORT_TILE][TILE];
          for (int q = 0; q < SHORT_TILE; q++)
            for (int r = 0; r < TILE; r++) s[q][r] = sums[(i + q) * lead + j + r];
          for (int g = 0; g < p.groups; g++)
            for (int q = 0; q < SHORT_TILE; q++)
              for (int r = 0; r < TILE; r++)
                add_inner(&s[q][r], a[g * lead + i + q], a[g * lead + j + r]);
          for (int q = 0; q < SHORT_TILE; q++)
            for (int r = 0; r < TILE; r++) sums[(i + q) * lead + j + r] = s[q][r];
        }
    }
    T *to = in[1].data + begin * in[1].matrix;
    for (ptrdiff_t i = 0; i < p.n; i++)
      for (ptrdiff_t j = i; j < p.n; j++)
        for (int part = 0; part < PARTS; part++) {
          T total = 0;
          for (int t = 0; t < LANES; t++) total += sums[i * lead + j].part[part][t];
          if (i == j && part) total = 0;
          to[i * in[1].row + j * in[1].column + part] = total;
          to[j * in[1].row + i * in[1].column + part] = part ? -total : total;
        }
  }
}

/* A W for a small W, shape (n, n).  Arrays: 0 A of single precision, 1 W, 2 the result, of
 * single precision. */
void NAME(tall_product)(const Task *task, int64_t begin, int64_t end, void *work) {
  Panel p = panel_of(task);
  const Array *in = task->array;
  const ptrdiff_t lead = p.lead;
  const int64_t blocks = TALL_BLOCKS(task->m);
  E *a = work, *y = a + p.groups * lead;
  p.buffer = (T *)(y + p.groups * lead);
  T *W = p.buffer + LANES * lead * PARTS;
  memset(p.buffer, 0, (size_t)lead * sizeof(E));
  memset(y, 0, (size_t)(p.groups * lead) * sizeof *y); /* for the unused columns */
  for (; begin < end; begin++) {
    const int64_t matrix = begin / blocks, first = begin % blocks * TALL_ROWS;
    const int64_t last = first + TALL_ROWS < task->m ? first + TALL_ROWS : task->m;
    const T *from = in[1].data + matrix * in[1].matrix;
    memset(W, 0, (size_t)(lead * lead) * PARTS * sizeof *W);
    for (ptrdiff_t i = 0; i < p.n; i++)
      for (ptrdiff_t j = 0; j < p.n; j++)
        memcpy(W + (i * lead + j) * PARTS, from + i * in[1].row + j * in[1].column,
               PARTS * sizeof *W);
    for (int64_t row = first; row < last; row += p.groups * LANES) {
      read_panel(a, &in[0], matrix, row, last, &p);
      for (int g = 0; g < p.groups; g += SHORT_TILE)
        for (ptrdiff_t j = 0; j < p.n; j += TILE) {
          E s[SHORT_TILE][TILE] = {0};
          for (int k = 0; k < p.n; k++)
            for (int r = 0; r < TILE; r++) {
              const T *c = W + (k * lead + j + r) * PARTS;
              for (int q = 0; q < SHORT_TILE; q++) {
                const E x = a[(g + q) * lead + k];
                s[q][r].part[0] += x.part[0] * c[0];
#if COMPLEX
                s[q][r].part[0] -= x.part[1] * c[1];
                s[q][r].part[1] += x.part[0] * c[1];
                s[q][r].part[1] += x.part[1] * c[0];
#endif
              }
            }
          for (int q = 0; q < SHORT_TILE; q++)
            for (int r = 0; r < TILE; r++) y[(g + q) * lead + j + r] = s[q][r];
        }
      for (int g = 0; g < p.groups && row + g * LANES < last; g++) {
        const int64_t here = row + g * LANES;
        write_rows(y + g * lead, &in[2], matrix * in[2].matrix + here * in[2].row,
                   last - here, &p);
      }
    }
  }
}

#endif
