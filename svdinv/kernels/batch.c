/* What Python calls: the kernel that fits the processor, on all threads.
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

#include "tall.h"

#define PUBLIC __attribute__((visibility("default")))

typedef void T;
#include "task.h"

typedef void Run(const Task *, int64_t, int64_t, void *);
typedef int64_t Memory(int, int);

enum {
  DECOMPOSITIONS = 2,
  ALIGN = 6,
  ALIGN_PULL,
  TALL_EIGEN,
  TALL_GRAM, /* these two work on blocks of rows */
  TALL_PRODUCT,
  KINDS
};
typedef struct {
  Run *run[KINDS];
  Memory *decomposition, *derivative, *alignment, *tall;
  const int *lanes;
} Kernel;

/* The order of the kinds is also in svdinv/kernels/__init__.py. */
#define DECLARE(type, isa)                                                        \
  extern Run svd_##type##_##isa, eigh_##type##_##isa, map_##type##_##isa,         \
      derivative_##type##_##isa, svd_pull_##type##_##isa, eigh_pull_##type##_##isa, \
      align_##type##_##isa, align_pull_##type##_##isa, tall_eigen_##type##_##isa, \
      tall_gram_##type##_##isa, tall_product_##type##_##isa;                      \
  extern Memory decomposition_memory_##type##_##isa, derivative_memory_##type##_##isa, \
      alignment_memory_##type##_##isa, tall_memory_##type##_##isa;                \
  extern const int lanes_##type##_##isa;
#define KERNEL(type, isa)                                                         \
  {{svd_##type##_##isa, eigh_##type##_##isa, map_##type##_##isa,                  \
    derivative_##type##_##isa, svd_pull_##type##_##isa, eigh_pull_##type##_##isa, \
    OF_REAL_##type(align_##type##_##isa), OF_REAL_##type(align_pull_##type##_##isa), \
    OF_DOUBLE_##type(tall_eigen_##type##_##isa),                                  \
    OF_DOUBLE_##type(tall_gram_##type##_##isa),                                   \
    OF_DOUBLE_##type(tall_product_##type##_##isa)},                               \
   decomposition_memory_##type##_##isa, derivative_memory_##type##_##isa,         \
   OF_REAL_##type(alignment_memory_##type##_##isa),                               \
   OF_DOUBLE_##type(tall_memory_##type##_##isa), &lanes_##type##_##isa}
/* Points are real. */
#define OF_REAL_f32(x) x
#define OF_REAL_f64(x) x
#define OF_REAL_c64(x) 0
#define OF_REAL_c128(x) 0
/* What reads single precision and computes in double. */
#define OF_DOUBLE_f32(x) 0
#define OF_DOUBLE_f64(x) x
#define OF_DOUBLE_c64(x) 0
#define OF_DOUBLE_c128(x) x
#define TYPES(X, isa) X(f32, isa) X(f64, isa) X(c64, isa) X(c128, isa)
#define KERNELS(isa)                                                              \
  {#isa, {KERNEL(f32, isa), KERNEL(f64, isa), KERNEL(c64, isa), KERNEL(c128, isa)}}

/* VARIANTS(X) lists the compiled instruction sets, widest last: X(baseline) ... */
#define DECLARE_ALL(isa) TYPES(DECLARE, isa)
VARIANTS(DECLARE_ALL)

static const struct {
  const char *name;
  Kernel kernels[4];
} variants[] = {
#define ENTRY(isa) KERNELS(isa),
    VARIANTS(ENTRY)};
#define COUNT ((int)(sizeof variants / sizeof *variants))

PUBLIC const char *svdinv_variant(int index) {
  return index < COUNT ? variants[index].name : 0;
}

/* Whether this processor runs a variant. */
PUBLIC int svdinv_supported(int index) {
  if (index < 0 || index >= COUNT) return 0;
#if defined(__x86_64__) || defined(__i386__)
  const char *name = variants[index].name;
  __builtin_cpu_init();
  if (!strcmp(name, "avx2"))
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (!strcmp(name, "avx512"))
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("fma");
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

static void work(Job *job) {
  void *memory = scratch(job->memory);
  if (!memory) return; /* the others do it all, if they have some */
  int failures = 0;
  for (;;) {
    int64_t begin = atomic_fetch_add(&job->next, job->chunk);
    if (begin >= job->batch) break;
    int64_t end = begin + job->chunk;
    if (end > job->batch) end = job->batch;
    job->run(job->task, begin, end, memory);
    if (job->task->failed)
      for (int64_t b = begin; b < end; b++) failures += job->task->failed[b] != 0;
  }
  if (failures) atomic_fetch_add(&job->failures, failures);
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
    work(job); /* alone, too, where another thread has the pool */
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
  wanted = 0; /* who has not begun need not */
  while (busy) pthread_cond_wait(&end_work, &lock);
  current = 0;
  pthread_mutex_unlock(&lock);
  pthread_mutex_unlock(&turn);
}

/* ---- entry ------------------------------------------------------------------------- */

/* Run a kernel, `kind`, over a batch of matrices, shape (m, n) with m >= n.
 *
 * `type` is 0 to 3 for f32, f64, c64 and c128.  Returns the number of matrices that were
 * not decomposed, which task->failed tells if there is one, or -1 without memory. */
PUBLIC int svdinv_run(int kind, int variant, int type, int most_threads, int64_t batch,
                      const Task *task) {
  if (batch == 0 || task->n == 0) return 0;
  const Kernel *kernel = &variants[variant].kernels[type];
  const int m = (int)task->m, n = (int)task->n;
  const int decomposes = kind < DECOMPOSITIONS, tall = kind >= TALL_EIGEN;
  const int aligns = kind >= ALIGN && !tall, by_blocks = kind >= TALL_GRAM;
  Job job = {.task = task, .run = kernel->run[kind], .batch = batch};
  job.chunk = *kernel->lanes;
  job.memory = (size_t)(decomposes ? kernel->decomposition
                        : aligns   ? kernel->alignment
                        : tall     ? kernel->tall
                                   : kernel->derivative)(m, n);
  if (by_blocks) job.chunk = 1, job.batch *= TALL_BLOCKS(task->m);
  /* A thread more for each 50 microseconds or so, in which one wakes. */
  const int64_t chunks = (job.batch + job.chunk - 1) / job.chunk;
  const double cube = (double)n * n * n;
  const double each = by_blocks ? 0.3 * TALL_ROWS * n * n
                      : tall    ? 30 * cube
                                : (decomposes ? 30.0 : 8.0) * m * n * n +
                                      (kind == ALIGN ? 30 * cube : 0) + 3000.0 * n + 5000;
  int64_t helpers = (int64_t)(chunks * each / 150e3);
  if (helpers > chunks - 1) helpers = chunks - 1;
  if (helpers > most_threads - 1) helpers = most_threads - 1;
  Task own = *task;
  if (!task->failed && (decomposes || kind == ALIGN)) {
    own.failed = malloc((size_t)batch * sizeof *own.failed);
    if (!own.failed) return -1;
    job.task = &own;
  }
  run(&job, (int)helpers);
  if (own.failed != task->failed) free(own.failed);
  return atomic_load(&job.next) < job.batch ? -1 : atomic_load(&job.failures);
}
