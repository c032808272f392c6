#pragma once
/* Whether the processor counts subnormal numbers as 0. */
#include <stdint.h>

#if defined(__x86_64__)
#define RESULTS 0x8000u /* flags of the control word */
#define ALL 0x8040u
#elif defined(__aarch64__)
#define RESULTS (1u << 24)
#define ALL (1u << 24)
#else
#define RESULTS 0u
#define ALL 0u
#endif

static inline uint64_t control_word(void) {
#if defined(__x86_64__)
  uint32_t word;
  __asm__ volatile("stmxcsr %0" : "=m"(word) : : "memory");
  return word;
#elif defined(__aarch64__)
  uint64_t word;
  __asm__ volatile("mrs %0, fpcr" : "=r"(word) : : "memory");
  return word;
#else
  return 0;
#endif
}

static inline void restore(uint64_t control) {
#if defined(__x86_64__)
  const uint32_t word = (uint32_t)control;
  __asm__ volatile("ldmxcsr %0" : : "m"(word) : "memory");
#elif defined(__aarch64__)
  __asm__ volatile("msr fpcr, %0" : : "r"(control) : "memory");
#else
  (void)control;
#endif
}

/* The following return the control word to restore. */

/* The vectors of graded matrices have elements that underflow in single precision, and
 * processors take a hundred cycles for each.  Beside elements of order 1 they mean nothing:
 * results that small become zero. */
static inline uint64_t flush_subnormal(void) {
  const uint64_t before = control_word();
  restore(before | RESULTS);
  return before;
}

/* Called at the entry of all kernels, because the threads of XLA and TensorFlow count subnormal
 * numbers as 0, which in a matrix of small elements may be a tenth of the largest. */
static inline uint64_t count_subnormal(void) {
  const uint64_t before = control_word();
  restore(before & ~(uint64_t)ALL);
  return before;
}

#undef RESULTS
#undef ALL
