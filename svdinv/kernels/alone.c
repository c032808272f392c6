/* Singular value and Hermitian eigendecomposition of one matrix alone.
 *
 * The iterations are those of a batch, in one lane; around them vectors hold rows of the
 * matrix.
 */
#define ONE_BYTES 16 /* registers of vectors, in which masks cost nothing */
#include "iterations.h"

typedef struct { Row part[PARTS]; } Block;
#define BLOCKS(n) (((n) + COLUMNS - 1) / COLUMNS)

/* ---- numbers, in the first lane, and blocks of them ------------------------------ */

INLINE E element(const Block *row, int j) {
  E x = {0};
  for (int p = 0; p < PARTS; p++) x.part[p][0] = row[j / COLUMNS].part[p][j % COLUMNS];
  return x;
}

INLINE void put(Block *row, int j, E x) {
  for (int p = 0; p < PARTS; p++) row[j / COLUMNS].part[p][j % COLUMNS] = x.part[p][0];
}

/* s += conj(x) y */
INLINE void add_multiple(Block *s, E x, Block y) {
  s->part[0] += x.part[0][0] * y.part[0];
#if COMPLEX
  s->part[0] += x.part[1][0] * y.part[1];
  s->part[1] += x.part[0][0] * y.part[1];
  s->part[1] -= x.part[1][0] * y.part[0];
#endif
}

/* s -= x y */
INLINE void subtract_multiple(Block *s, E x, Block y) {
  s->part[0] -= x.part[0][0] * y.part[0];
#if COMPLEX
  s->part[0] += x.part[1][0] * y.part[1];
  s->part[1] -= x.part[0][0] * y.part[1];
  s->part[1] -= x.part[1][0] * y.part[0];
#endif
}

/* s += conj(x) y, element by element */
INLINE void add_products(Block *s, Block x, Block y) {
  s->part[0] += x.part[0] * y.part[0];
#if COMPLEX
  s->part[0] += x.part[1] * y.part[1];
  s->part[1] += x.part[0] * y.part[1];
  s->part[1] -= x.part[1] * y.part[0];
#endif
}

INLINE Block conjugate_block(Block x) {
#if COMPLEX
  x.part[1] = -x.part[1];
#endif
  return x;
}

/* The sum of a block. */
INLINE E total(Block x) {
  E s = {0};
  for (int p = 0; p < PARTS; p++)
    for (int j = 0; j < COLUMNS; j++) s.part[p][0] += x.part[p][j];
  return s;
}

/* Components from `first` of a row, 0 before them. */
static void put_vector(Block *row, const E *x, int first, int length) {
  for (int b = 0; b < BLOCKS(length); b++) row[b] = (Block){0};
  for (int j = first; j < length; j++) put(row, j, x[j - first]);
}

/* ---- to bidiagonal and tridiagonal matrices ------------------------------------------ */

/* Workspace of one matrix. */
typedef struct {
  Block *A, *left, *right, *w, *u, *strip;
  Basis P, Q;
  E *x, *y, *tau_left, *tau_right;
  V *d, *e;
  I *place;
  T upper, lower; /* factors of the scale */
  int bad;
} Work;

/* As `bidiagonalise` of a batch; the vectors become rows of `left` and `right`. */
static void bidiagonalise(Work *z, int m, int n) {
  const E one = {{fill(1)}};
  const int blocks = BLOCKS(n);
  Block *const w = z->w, *const u = z->u;
  E *const x = z->x, *const y = z->y;
  for (int k = 0; k < n; k++) {
    for (int i = k; i < m; i++) x[i - k] = element(z->A + (ptrdiff_t)i * blocks, k);
    z->d[k] = reflector(x, 1, m - k, &z->tau_left[k]);
    x[0] = one;
    put_vector(z->left + (ptrdiff_t)k * BLOCKS(m), x, k, m);
    const int width = n - k - 1, from = (k + 1) / COLUMNS;
    if (width == 0) break;
    for (int b = from; b < blocks; b++) {
      Block s = {0};
      for (int i = k; i < m; i++)
        add_multiple(&s, x[i - k], z->A[(ptrdiff_t)i * blocks + b]);
      w[b] = (Block){0};
      add_multiple(&w[b], z->tau_left[k], s);
    }
    for (int j = from * COLUMNS; j <= k; j++) put(w, j, (E){0});
    /* The conjugate of row k is reflected. */
    for (int j = 0; j < width; j++)
      y[j] = conjugate(difference(element(z->A + (ptrdiff_t)k * blocks, k + 1 + j),
                                  element(w, k + 1 + j)));
    z->e[k] = reflector(y, 1, width, &z->tau_right[k]);
    y[0] = one;
    Block *const right = z->right + (ptrdiff_t)k * blocks;
    put_vector(right, y, k + 1, n);
    for (int b = from; b < blocks; b++) u[b] = conjugate_block(right[b]);
    for (int i = k + 1; i < m; i++) {
      Block *a = z->A + (ptrdiff_t)i * blocks, dot = {0};
      for (int b = from; b < blocks; b++) {
        subtract_multiple(&a[b], x[i - k], w[b]);
        add_products(&dot, u[b], a[b]);
      }
      const E s = times(z->tau_right[k], total(dot));
      for (int b = from; b < blocks; b++) subtract_multiple(&a[b], s, u[b]);
    }
  }
  z->e[n - 1] = (V){0};
}

/* As `tridiagonalise` of a batch; the vectors become rows of `left`. */
static void tridiagonalise(Work *z, int n) {
  const int blocks = BLOCKS(n);
  Block *const w = z->w, *const u = z->u;
  E *const x = z->x;
  for (int k = 0; k < n; k++) {
    z->d[k] = element(z->A + (ptrdiff_t)k * blocks, k).part[0];
    const int size = n - k - 1, from = (k + 1) / COLUMNS;
    if (size == 0) break;
    for (int i = 0; i < size; i++)
      x[i] = element(z->A + (ptrdiff_t)(k + 1 + i) * blocks, k);
    z->e[k] = reflector(x, 1, size, &z->tau_left[k]);
    x[0] = (E){{fill(1)}};
    const E tau = z->tau_left[k];
    Block *const v = z->left + (ptrdiff_t)k * blocks, dot = {0};
    put_vector(v, x, k + 1, n);
    for (int b = from; b < blocks; b++) { /* conj(tau A v), by rows of A */
      Block s = {0};
      for (int i = 0; i < size; i++)
        add_multiple(&s, x[i], z->A[(ptrdiff_t)(k + 1 + i) * blocks + b]);
      w[b] = (Block){0};
      add_multiple(&w[b], tau, s);
    }
    for (int j = from * COLUMNS; j <= k; j++) put(w, j, (E){0});
    for (int b = from; b < blocks; b++) {
      w[b] = conjugate_block(w[b]);
      add_products(&dot, w[b], v[b]);
    }
    const E inner = scaled(times(tau, total(dot)), fill((T)0.5));
    for (int b = from; b < blocks; b++) {
      subtract_multiple(&w[b], inner, v[b]);
      u[b] = conjugate_block(w[b]);
    }
    for (int i = 0; i < size; i++) {
      Block *a = z->A + (ptrdiff_t)(k + 1 + i) * blocks;
      const E wi = element(w, k + 1 + i);
      for (int b = from; b < blocks; b++) {
        subtract_multiple(&a[b], x[i], u[b]);
        subtract_multiple(&a[b], wi, conjugate_block(v[b]));
      }
    }
  }
  z->e[n - 1] = (V){0};
}

/* ---- in and out -------------------------------------------------------------------------- */

INLINE E at(const T *from, int conj) {
  E x = {0};
  for (int p = 0; p < PARTS; p++) x.part[p][0] = conj && p ? -from[p] : from[p];
  return x;
}

/* Read matrix b: shape (m, n), or the lower triangle. */
static void take(Work *z, const Array *A, int64_t b, int m, int n, int hermitian) {
  const int blocks = BLOCKS(n);
  const T *from = A->data + b * A->matrix;
  for (ptrdiff_t i = 0; i < (ptrdiff_t)m * blocks; i++) z->A[i] = (Block){0};
  for (int i = 0; i < m; i++)
    for (int j = 0; j < (hermitian ? i : n); j++) {
      const T *x = from + i * A->row + j * A->column;
      put(z->A + (ptrdiff_t)i * blocks, j, at(x, 0));
      if (hermitian) put(z->A + (ptrdiff_t)j * blocks, i, at(x, 1));
    }
  for (int i = 0; hermitian && i < n; i++)
    z->A[(ptrdiff_t)i * blocks + i / COLUMNS].part[0][i % COLUMNS] =
        from[i * (A->row + A->column)];
  /* Divide by the power of two above the largest part; zero if one is not finite. */
  T size = 0, nothing = 0;
  for (ptrdiff_t i = 0; i < (ptrdiff_t)m * blocks; i++)
    for (int p = 0; p < PARTS; p++)
      for (int j = 0; j < COLUMNS; j++) {
        const T x = z->A[i].part[p][j], modulus = x < 0 ? -x : x;
        size = modulus > size ? modulus : size;
        nothing += x - x;
      }
  z->bad = !(nothing == 0);
  const int k = z->bad ? 0 : exponent(size);
  const T up = power_of_two(-(k / 2)), down = power_of_two(-(k - k / 2));
  z->upper = power_of_two(k / 2), z->lower = power_of_two(k - k / 2);
  for (ptrdiff_t i = 0; i < (ptrdiff_t)m * blocks; i++)
    for (int p = 0; p < PARTS; p++)
      z->A[i].part[p] = z->bad ? (Row){0} : z->A[i].part[p] * up * down;
}

static void store_values(const Work *z, const Array *out, int64_t b, int n) {
  for (int i = 0; i < n; i++)
    out->data[b * out->matrix + z->place[i][0] * out->column] =
        z->bad ? (T)__builtin_nan("") : z->d[i][0] * z->upper * z->lower + 0;
}

/* x := H_0 H_1 ... H_(count - 1) x for STRIP rows x of `blocks`; H_k leaves the components
 * before `first` + k unchanged. */
static void reflect(Block *restrict x, int blocks, const Block *restrict v, int first,
                    int count, const E *tau) {
  for (int k = count - 1; k >= 0; k--) {
    const Block *h = v + (ptrdiff_t)k * blocks;
    Block s[STRIP] = {0};
    for (int b = (first + k) / COLUMNS; b < blocks; b++)
      for (int r = 0; r < STRIP; r++) add_products(&s[r], h[b], x[r * blocks + b]);
    for (int r = 0; r < STRIP; r++) {
      const E t = times(tau[k], total(s[r]));
      for (int b = (first + k) / COLUMNS; b < blocks; b++)
        subtract_multiple(&x[r * blocks + b], t, h[b]);
    }
  }
}

/* The vectors of a basis, after the reflections v, as rows of matrix b. */
static void finish(const Work *z, const Basis *basis, int n, int length, const Block *v,
                   int first, int count, const E *tau, int conj, const Array *out,
                   int64_t b) {
  const int blocks = BLOCKS(length);
  const T more = z->bad ? (T)__builtin_nan("") : 0;
  for (int i = 0; i < n; i += STRIP) {
    const int many = n - i < STRIP ? n - i : STRIP;
    for (int r = 0; r < STRIP; r++)
      for (int k = 0; k < blocks; k++) {
        Block *x = z->strip + r * blocks + k;
        *x = (Block){0};
        if (r < many && k < BLOCKS(n)) x->part[0] = *component(basis, n, i + r, k);
      }
    reflect(z->strip, blocks, v, first, count, tau);
    for (int r = 0; r < many; r++) {
      Block *x = z->strip + r * blocks, norm = {0};
      for (int k = 0; k < blocks; k++) add_products(&norm, x[k], x[k]);
      /* Correct the length, which has accumulated rounding errors. */
      const T by = 1 - (T)0.5 * (total(norm).part[0][0] - 1);
      T *to = out->data + b * out->matrix + z->place[i + r][0] * out->row;
      for (int k = 0; k < length; k++)
        for (int p = 0; p < PARTS; p++) {
          const T c = x[k / COLUMNS].part[p][k % COLUMNS] * by;
          to[k * PARTS + p] = (conj && p ? -c : c) + more;
        }
    }
  }
}

/* ---- entry -------------------------------------------------------------------------------- */

const int NAME(lanes) = 1;

/* Memory that a call of `svd` or `eigh` needs, in bytes. */
int64_t NAME(decomposition_memory)(int m, int n) {
  const int64_t of_m = BLOCKS(m), of_n = BLOCKS(n);
  return (m * of_n + n * of_m + n * of_n + 2 * of_n + STRIP * of_m) * sizeof(Block) +
         2 * BASIS(n) * sizeof(Row) + 2 * SWEEPS * n * sizeof(Rotation) +
         (m + 3 * (int64_t)n) * sizeof(E) + 3 * n * sizeof(V);
}

static Work laid_out(void *memory, int m, int n) {
  Work z = {.A = memory};
  z.left = z.A + (ptrdiff_t)m * BLOCKS(n);
  z.right = z.left + (ptrdiff_t)n * BLOCKS(m);
  z.w = z.right + (ptrdiff_t)n * BLOCKS(n);
  z.u = z.w + BLOCKS(n);
  z.strip = z.u + BLOCKS(n);
  z.P.vectors = (Row *)(z.strip + STRIP * BLOCKS(m));
  z.Q.vectors = z.P.vectors + BASIS(n);
  z.P.rotations = (Rotation *)(z.Q.vectors + BASIS(n));
  z.Q.rotations = z.P.rotations + SWEEPS * (ptrdiff_t)n;
  z.x = (E *)(z.Q.rotations + SWEEPS * (ptrdiff_t)n);
  z.y = z.x + m;
  z.tau_left = z.y + n;
  z.tau_right = z.tau_left + n;
  z.d = (V *)(z.tau_right + n);
  z.e = z.d + n;
  z.place = (I *)(z.e + n);
  return z;
}

/* As for a batch; failed is 1 for a matrix that is not finite and 2 where the iteration
 * did not converge. */
void NAME(svd)(const Task *task, int64_t begin, int64_t end, void *work) {
  const int m = (int)task->m, n = (int)task->n;
  Work z = laid_out(work, m, n);
  for (int64_t b = begin; b < end; b++) {
    I left_over;
    take(&z, &task->array[0], b, m, n, 0);
    const uint64_t before = flush_subnormal();
    bidiagonalise(&z, m, n);
    eye(&z.P, n);
    eye(&z.Q, n);
    bidiagonal_qr(z.d, z.e, n, &z.P, &z.Q, &left_over);
    task->failed[b] = z.bad ? 1 : left_over[0] ? 2 : 0;
    z.bad = task->failed[b] != 0;
    for (int i = 0; i < n; i++) {
      if (z.d[i][0] < 0)
        for (int k = 0; k < BLOCKS(n); k++)
          *component(&z.P, n, i, k) = -*component(&z.P, n, i, k);
      z.d[i] = magnitude(z.d[i]);
    }
    order(z.d, n, 1, z.place);
    finish(&z, &z.P, n, m, z.left, 0, n, z.tau_left, 0, &task->array[2], b);
    finish(&z, &z.Q, n, n, z.right, 1, n - 1, z.tau_right, 1, &task->array[3], b);
    restore(before);
    store_values(&z, &task->array[1], b, n);
  }
}

void NAME(eigh)(const Task *task, int64_t begin, int64_t end, void *work) {
  const int n = (int)task->n;
  Work z = laid_out(work, n, n);
  for (int64_t b = begin; b < end; b++) {
    I left_over;
    take(&z, &task->array[0], b, n, n, 1);
    const uint64_t before = flush_subnormal();
    tridiagonalise(&z, n);
    eye(&z.P, n);
    tridiagonal_qr(z.d, z.e, n, &z.P, &left_over);
    task->failed[b] = z.bad ? 1 : left_over[0] ? 2 : 0;
    z.bad = task->failed[b] != 0;
    order(z.d, n, 0, z.place);
    finish(&z, &z.P, n, n, z.left, 1, n - 1, z.tau_left, 0, &task->array[2], b);
    restore(before);
    store_values(&z, &task->array[1], b, n);
  }
}
