/* The functions that Python calls, which run the kernel that fits the processor, on all threads.
 *
 * Another instruction set is one more line in VARIANTS, one test in `supported`, and
 * one entry with its flags in build.py.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

#include "call.h"
#include "subnormal.h"
#include "tall.h"

#define PUBLIC __attribute__((visibility("default")))

typedef void T;
#include "task.h"

typedef void Run(const Task *, int64_t, int64_t, void *);
typedef int64_t Memory(int, int);

typedef struct {
  struct {
    Run *run;
    Memory *memory; /* bytes that it needs for matrices of shape (m, n) */
  } of[KINDS];
  const int *lanes; /* matrices that are worked on at a time */
} Kernel;

/* Kinds, the functions that compute them, and whose memory these need; `t` is a type and an
 * instruction set. */
#define OF_ANY(X, t)                                                              \
  X(SVD, svd, decomposition, t) X(EIGH, eigh, decomposition, t)                   \
  X(SPECTRAL, spectral, spectral, t) X(MAP, map, derivative, t)                   \
  X(DERIVATIVE, derivative, derivative, t) X(SVD_PULL, svd_pull, derivative, t)   \
  X(EIGH_PULL, eigh_pull, derivative, t) X(CLUSTERS, clusters, clusters, t)       \
  X(HERMITIAN, hermitian, derivative, t) X(PRODUCT, product, product, t)
/* Points are real. */
#define OF_POINTS(X, t)                                                           \
  X(ALIGN, align, alignment, t) X(ALIGN_PULL, align_pull, alignment, t)
/* Kernels that read single precision and compute in double. */
#define OF_TALL(X, t)                                                             \
  X(TALL_GRAM, tall_gram, tall, t) X(TALL_PRODUCT, tall_product, tall, t)
#define OF_EIGEN(X, t) X(TALL_EIGEN, tall_eigen, tall_eigen, t)
#define ALL_f32(X, t) OF_ANY(X, t) OF_POINTS(X, t)
#define ALL_f64(X, t) OF_ANY(X, t) OF_POINTS(X, t) OF_TALL(X, t) OF_EIGEN(X, t)
#define ALL_c64(X, t) OF_ANY(X, t)
#define ALL_c128(X, t) OF_ANY(X, t) OF_TALL(X, t) OF_EIGEN(X, t)
/* For one matrix. */
#define DOUBLE_ONE(X, t) OF_ANY(X, t) OF_EIGEN(X, t)

#define DECLARE_ONE(kind, name, memory, t)                                        \
  extern Run name##_##t;                                                          \
  extern Memory memory##_memory_##t;
#define ENTRY_ONE(kind, name, memory, t) [kind] = {name##_##t, memory##_memory_##t},
#define DECLARE(all, t) all(DECLARE_ONE, t) extern const int lanes_##t;
#define ENTRY(all, t) {{all(ENTRY_ONE, t)}, &lanes_##t},

/* VARIANTS(X) lists the compiled instruction sets, widest last: X(baseline) ..., and
 * ALONE(X) the first of them, which are compiled for one matrix too. */
#define DECLARE_ALL(isa)                                                          \
  DECLARE(ALL_f32, f32_##isa) DECLARE(ALL_f64, f64_##isa)                         \
  DECLARE(ALL_c64, c64_##isa) DECLARE(ALL_c128, c128_##isa)
#define DECLARE_ALONE(isa)                                                        \
  DECLARE(OF_ANY, f32_##isa##_alone) DECLARE(DOUBLE_ONE, f64_##isa##_alone)       \
  DECLARE(OF_ANY, c64_##isa##_alone) DECLARE(DOUBLE_ONE, c128_##isa##_alone)
VARIANTS(DECLARE_ALL)
ALONE(DECLARE_ALONE)

static const struct {
  const char *name;
  Kernel kernels[4];
} variants[] = {
#define VARIANT(isa)                                                              \
  {#isa, {ENTRY(ALL_f32, f32_##isa) ENTRY(ALL_f64, f64_##isa)                     \
          ENTRY(ALL_c64, c64_##isa) ENTRY(ALL_c128, c128_##isa)}},
    VARIANTS(VARIANT)};
static const Kernel alone[][4] = {
#define VARIANT_ALONE(isa)                                                        \
  {ENTRY(OF_ANY, f32_##isa##_alone) ENTRY(DOUBLE_ONE, f64_##isa##_alone)          \
   ENTRY(OF_ANY, c64_##isa##_alone) ENTRY(DOUBLE_ONE, c128_##isa##_alone)},
    ALONE(VARIANT_ALONE)};
#define COUNT ((int)(sizeof variants / sizeof *variants))

PUBLIC const char *svdinv_variant(int index) {
  return index < COUNT ? variants[index].name : 0;
}

#if defined(__x86_64__) || defined(__i386__)
/* Asks the processor itself: not every compiler has the data that __builtin_cpu_supports
 * reads. */
static int has_vectors(int with_512) {
  unsigned a, b, c, d, state, high;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
  if (~c & (bit_FMA | bit_OSXSAVE | bit_AVX)) return 0;
  __asm__("xgetbv" : "=a"(state), "=d"(high) : "c"(0));
  const unsigned saved = with_512 ? 0xe6 : 6; /* registers that the system keeps */
  if (~state & saved || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  const unsigned needed =
      with_512 ? bit_AVX512F | bit_AVX512VL | bit_AVX512DQ | bit_AVX512BW : bit_AVX2;
  return !(~b & needed);
}
#endif

/* Whether this processor runs a variant. */
PUBLIC int svdinv_supported(int index) {
  if (index < 0 || index >= COUNT) return 0;
#if defined(__x86_64__) || defined(__i386__)
  const char *name = variants[index].name;
  if (!strcmp(name, "avx2")) return has_vectors(0);
  if (!strcmp(name, "avx512")) return has_vectors(1);
#endif
  return 1;
}

/* ---- a pool of threads that sleep ------------------------------------------------- */

#define MOST 64
typedef struct {
  const Task *task;
  Run *run;
  int64_t batch, chunk;
  size_t memory;
  atomic_llong next;
  atomic_int failures;
} Job;

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER; /* one job at a time */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t begin_work = PTHREAD_COND_INITIALIZER;
static pthread_cond_t end_work = PTHREAD_COND_INITIALIZER;
static Job *current;
static int threads, wanted, busy;

typedef struct {
  void *memory;
  size_t size;
} Scratch;
static pthread_key_t scratch_key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void release(void *value) {
  Scratch *scratch = value;
  free(scratch->memory);
  free(scratch);
}

static void after_fork(void) { /* the child has none of the threads */
  pthread_mutex_init(&turn, 0);
  pthread_mutex_init(&lock, 0);
  pthread_cond_init(&begin_work, 0);
  pthread_cond_init(&end_work, 0);
  current = 0;
  threads = wanted = busy = 0;
}

static void prepare(void) {
  pthread_key_create(&scratch_key, release);
  pthread_atfork(0, 0, after_fork);
}

/* Memory of this thread, kept for its next job. */
static void *scratch(size_t size) {
  Scratch *own = pthread_getspecific(scratch_key);
  if (!own) {
    own = calloc(1, sizeof *own);
    if (!own) return 0;
    pthread_setspecific(scratch_key, own);
  }
  if (own->size < size) {
    free(own->memory);
    own->size = 0;
    if (posix_memalign(&own->memory, 64, size)) return own->memory = 0;
    own->size = size;
  }
  return own->memory;
}

#ifndef MOST_KEPT
#define MOST_KEPT (1 << 24) /* bytes, more than small matrices ever need */
#endif
static void forget(void) {
  Scratch *own = pthread_getspecific(scratch_key);
  free(own->memory);
  *own = (Scratch){0};
}

static void work(Job *job) {
  void *memory = scratch(job->memory);
  if (!memory) return; /* threads that have memory do all the work */
  int failures = 0;
  const uint64_t before = count_subnormal();
  for (;;) {
    int64_t begin = atomic_fetch_add(&job->next, job->chunk);
    if (begin >= job->batch) break;
    int64_t end = begin + job->chunk;
    if (end > job->batch) end = job->batch;
    job->run(job->task, begin, end, memory);
    if (job->task->failed)
      for (int64_t b = begin; b < end; b++) failures += job->task->failed[b] != 0;
  }
  restore(before);
  if (failures) atomic_fetch_add(&job->failures, failures);
  if (job->memory > MOST_KEPT) forget();
}

static void *worker(void *unused) {
  (void)unused;
  pthread_mutex_lock(&lock);
  for (;;) {
    while (!wanted) pthread_cond_wait(&begin_work, &lock);
    wanted--;
    busy++;
    Job *job = current;
    pthread_mutex_unlock(&lock);
    work(job);
    pthread_mutex_lock(&lock);
    if (--busy == 0) pthread_cond_signal(&end_work);
  }
  return 0;
}

static void run(Job *job, int helpers) {
  pthread_once(&once, prepare);
  if (helpers <= 0 || pthread_mutex_trylock(&turn)) {
    work(job); /* also alone if another thread uses the pool */
    return;
  }
  pthread_mutex_lock(&lock);
  for (; threads < helpers && threads < MOST; threads++) {
    pthread_t thread;
    if (pthread_create(&thread, 0, worker, 0)) break;
    pthread_detach(thread);
  }
  current = job;
  wanted = helpers < threads ? helpers : threads;
  pthread_cond_broadcast(&begin_work);
  pthread_mutex_unlock(&lock);
  work(job);
  pthread_mutex_lock(&lock);
  wanted = 0; /* threads that have not begun are not needed */
  while (busy) pthread_cond_wait(&end_work, &lock);
  current = 0;
  pthread_mutex_unlock(&lock);
  pthread_mutex_unlock(&turn);
}

/* ---- entry ------------------------------------------------------------------------- */

/* The instruction sets in use: the widest, and a narrower one where that has too many lanes. */
static int wide_variant, narrow_variant, default_threads;

PUBLIC void svdinv_select(int wide, int narrow, int threads_of_graphs) {
  wide_variant = wide;
  narrow_variant = narrow;
  default_threads = threads_of_graphs;
}

#define NARROW_FROM 41 /* columns: vectors of full length leave the second cache */
#define MOST_COLUMNS 64 /* that one matrix in each lane is meant for */
/* Numbers in a narrow vector: no more matrices than that leave half of a long one empty. */
static const int narrow_lanes[4] = {8, 4, 8, 4};

/* Kernels take tall matrices, and the adjoints of wide ones.  For these, rows and columns of the
 * arrays in `turned` are exchanged, and so are the arrays of left and right vectors. */
static const struct {
  unsigned turned;
  signed char exchanged[2][2];
} adjoints[KINDS] = {
    [SVD] = {1 << 0, {{2, 3}}},
    [SPECTRAL] = {1 << 0 | 1 << 2, {{0}}},
    [MAP] = {1 << 0 | 1 << 2 | 1 << 4, {{0, 2}}},
    [DERIVATIVE] = {1 << 0 | 1 << 1 | 1 << 2 | 1 << 6, {{0, 1}}},
    [SVD_PULL] = {1 << 0 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6, {{0, 2}, {3, 5}}},
    [TALL_GRAM] = {1 << 0, {{0}}},
    [TALL_PRODUCT] = {1 << 0 | 1 << 2, {{0}}},
};

static void take_adjoints(int kind, Task *task) {
  const int64_t m = task->m;
  task->m = task->n, task->n = m, task->adjoint = 1;
  for (int i = 0; i < ARRAYS; i++)
    if (adjoints[kind].turned >> i & 1) {
      const int64_t row = task->array[i].row;
      task->array[i].row = task->array[i].column, task->array[i].column = row;
    }
  for (int i = 0; i < 2; i++) {
    Array *left = task->array + adjoints[kind].exchanged[i][0];
    Array *right = task->array + adjoints[kind].exchanged[i][1];
    const Array kept = *left;
    *left = *right, *right = kept;
  }
}

PUBLIC int svdinv_run(const Call *call, void *const address[ARRAYS], int most_threads) {
  const int kind = (int)call->kind, type = (int)call->type;
  const int decomposes = kind <= SPECTRAL, tall = kind >= TALL_EIGEN;
  const int aligns = kind >= ALIGN && !tall, by_blocks = kind >= TALL_GRAM;
  Task task = {.m = call->m, .n = call->n};
  memcpy(task.number, call->number, sizeof task.number);
  for (int i = 0; i < ARRAYS; i++)
    task.array[i] = (Array){address[i], call->stride[i][0], call->stride[i][1],
                            call->stride[i][2]};
  if (task.m < task.n && !aligns && kind != PRODUCT) take_adjoints(kind, &task);
  const int64_t batch = call->batch;
  const int m = (int)task.m, n = (int)task.n;
  if (batch == 0 || n == 0) return 0;
  const int narrow = !by_blocks && (n >= NARROW_FROM || batch <= narrow_lanes[type]);
  /* Few matrices, which leave most lanes empty, and those too large for lanes. */
  const int one_by_one = batch * 4 <= narrow_lanes[type] || (batch <= 2 && n > 32) ||
                         (kind == CLUSTERS && n > MOST_COLUMNS);
  const int has_alone = narrow_variant < (int)(sizeof alone / sizeof *alone) &&
                        alone[narrow_variant][type].of[kind].run;
  const Kernel *kernel = &variants[narrow ? narrow_variant : wide_variant].kernels[type];
  if (one_by_one && has_alone) kernel = &alone[narrow_variant][type];
  Job job = {.task = &task, .run = kernel->of[kind].run, .batch = batch};
  job.chunk = *kernel->lanes;
  job.memory = (size_t)kernel->of[kind].memory(m, n);
  if (kind == PRODUCT) job.memory *= (size_t)task.number[0];
  if (by_blocks) job.chunk = 1, job.batch *= TALL_BLOCKS(task.m);
  /* One more thread for each 50 microseconds or so, the time in which one wakes. */
  const int64_t chunks = (job.batch + job.chunk - 1) / job.chunk;
  const double cube = (double)n * n * n;
  const double each = by_blocks ? 0.3 * TALL_ROWS * n * n
                      : tall    ? 30 * cube
                                : (decomposes ? 30.0 : 8.0) * m * n * n +
                                      (kind == ALIGN ? 30 * cube : 0) + 3000.0 * n + 5000;
  if (most_threads == 0) most_threads = default_threads;
  int64_t helpers = (int64_t)(chunks * each / 150e3);
  if (helpers > chunks - 1) helpers = chunks - 1;
  if (helpers > most_threads - 1) helpers = most_threads - 1;
  int32_t few[64];
  if (decomposes || kind == ALIGN) {
    task.failed = batch <= 64 ? few : malloc((size_t)batch * sizeof *few);
    if (!task.failed) return -1;
  }
  run(&job, (int)helpers);
  if (task.failed != few) free(task.failed);
  return atomic_load(&job.next) < job.batch ? -1 : atomic_load(&job.failures);
}
