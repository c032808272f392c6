/* The kernels as an operation of TensorFlow, by its C interface alone: the functions are
 * looked up in the library that the process has loaded, so that one compiled library
 * serves every version of TensorFlow 2, without its headers.
 *
 * It is a library of its own, because TensorFlow has to load it to register the operation.  The
 * attribute `plan` is that of graph.h, followed for each result by the number of its axes after
 * those of the batch, and three lengths, which below 0 are of `enum Length`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

#include "graph.h"

#define PUBLIC __attribute__((visibility("default")))
#define OPERATION "Svdinv>Kernel"
#define MOST_BUFFERS 24
#define MOST_AXES 16
#define RESULT 4 /* numbers in a plan for each result */
#define RESOURCE_EXHAUSTED 8
#define INVALID_ARGUMENT 3

enum Length { ROWS = -1, COLUMNS = -2, SHORTER = -3, BLOCKS = -4 };

typedef struct TF_Status Status;
typedef struct TF_OpDefinitionBuilder Definition;
typedef struct TF_KernelBuilder Builder;
typedef struct TF_OpKernelConstruction Construction;
typedef struct TF_OpKernelContext Context;
typedef struct TF_ShapeInferenceContext Inference;
typedef struct TF_Tensor Tensor;

#define FUNCTIONS(X)                                                                  \
  X(Status *, TF_NewStatus, (void))                                                   \
  X(void, TF_DeleteStatus, (Status *))                                                \
  X(int, TF_GetCode, (const Status *))                                                \
  X(void, TF_SetStatus, (Status *, int, const char *))                                \
  X(Definition *, TF_NewOpDefinitionBuilder, (const char *))                          \
  X(void, TF_OpDefinitionBuilderAddAttr, (Definition *, const char *))                \
  X(void, TF_OpDefinitionBuilderAddInput, (Definition *, const char *))               \
  X(void, TF_OpDefinitionBuilderAddOutput, (Definition *, const char *))              \
  X(void, TF_OpDefinitionBuilderSetShapeInferenceFunction,                            \
    (Definition *, void (*)(Inference *, Status *)))                                  \
  X(void, TF_RegisterOpDefinition, (Definition *, Status *))                          \
  X(void, TF_ShapeInferenceContextSetUnknownShape, (Inference *, Status *))           \
  X(Builder *, TF_NewKernelBuilder,                                                   \
    (const char *, const char *, void *(*)(Construction *),                           \
     void (*)(void *, Context *), void (*)(void *)))                                  \
  X(void, TF_RegisterKernelBuilder, (const char *, Builder *, Status *))              \
  X(void, TF_OpKernelConstruction_GetAttrSize,                                        \
    (Construction *, const char *, int32_t *, int32_t *, Status *))                   \
  X(void, TF_OpKernelConstruction_GetAttrInt64List,                                   \
    (Construction *, const char *, int64_t *, int, Status *))                         \
  X(void, TF_OpKernelConstruction_Failure, (Construction *, Status *))                \
  X(int, TF_NumInputs, (Context *))                                                   \
  X(void, TF_GetInput, (Context *, int, Tensor **, Status *))                         \
  X(int, TF_ExpectedOutputDataType, (Context *, int))                                 \
  X(Tensor *, TF_AllocateOutput,                                                      \
    (Context *, int, int, const int64_t *, int, size_t, Status *))                    \
  X(void, TF_OpKernelContext_Failure, (Context *, Status *))                          \
  X(void *, TF_TensorData, (const Tensor *))                                          \
  X(int, TF_NumDims, (const Tensor *))                                                \
  X(int64_t, TF_Dim, (const Tensor *, int))                                           \
  X(size_t, TF_DataTypeSize, (int))                                                   \
  X(void, TF_DeleteTensor, (Tensor *))

#define DECLARE(type, name, arguments) static type(*name) arguments;
FUNCTIONS(DECLARE)

static int (*run)(const Call *, void *const *, int);

/* Python passes the address of `svdinv_run` of the other library. */
PUBLIC void svdinv_bind(void *function) { *(void **)&run = function; }

/* Called by `run_plan` of graph.h. */
int svdinv_run(const Call *call, void *const address[ARRAYS], int most_threads) {
  return run ? run(call, address, most_threads) : -1;
}

typedef struct {
  int results;
  int64_t plan[];
} Kernel;

#define OTHER_VERSION "a graph saved by another version of svdinv"
#define TOO_MANY_AXES "svdinv: more than 16 dimensions"

/* Whether a plan, which may come from a file, is one of this version. */
static int is_valid(const int64_t *plan, int results) {
  int valid = plan[PLAN_VERSION] == VERSION && 0 <= plan[PLAN_KIND] &&
              plan[PLAN_KIND] < KINDS && 0 <= plan[PLAN_TYPE] && plan[PLAN_TYPE] < 4;
  for (int i = 0; i < ARRAYS; i++) {
    const int64_t *array = array_of(plan, i);
    valid &= -1 <= array[BUFFER] && array[BUFFER] < MOST_BUFFERS && 0 <= array[AXES] &&
             array[AXES] <= 3;
  }
  for (int i = 0; i < results; i++) {
    const int64_t axes = plan[PLAN_LENGTH + RESULT * i];
    valid &= 0 <= axes && axes <= 3;
  }
  return valid;
}

/* Whether each array of a plan is there, and has the axes that the plan reads. */
static int fits(const int64_t *plan, const Buffer *operands, int count, int results) {
  for (int i = 0; i < ARRAYS; i++) {
    const int64_t *array = array_of(plan, i), buffer = array[BUFFER];
    if (buffer < 0) continue;
    if (buffer >= count + results) return 0;
    const int64_t axes = buffer < count ? operands[buffer].rank
                                        : plan[PLAN_LENGTH + RESULT * (buffer - count)];
    if (axes < array[AXES]) return 0;
  }
  const int64_t least = plan[PLAN_KIND] == TALL_EIGEN ? 3 : 2;
  for (int axis = 1; axis <= 2; axis++) {
    const int64_t buffer = sized_by(plan, axis)[BUFFER];
    if (buffer < 0 || buffer >= count || operands[buffer].rank < least) return 0;
  }
  return 1;
}

static void *construct(Construction *context) {
  Status *status = TF_NewStatus();
  int32_t length = 0, bytes = 0;
  Kernel *kernel = 0;
  TF_OpKernelConstruction_GetAttrSize(context, "plan", &length, &bytes, status);
  if (!TF_GetCode(status)) {
    const int results = (length - PLAN_LENGTH) / RESULT;
    if (length < PLAN_LENGTH || results > MOST_BUFFERS)
      TF_SetStatus(status, INVALID_ARGUMENT, OTHER_VERSION);
    else if (!(kernel = malloc(sizeof *kernel + (size_t)length * sizeof(int64_t))))
      TF_SetStatus(status, RESOURCE_EXHAUSTED, "svdinv: no memory for a kernel");
    else {
      kernel->results = results;
      TF_OpKernelConstruction_GetAttrInt64List(context, "plan", kernel->plan, length,
                                               status);
      if (!TF_GetCode(status) && !is_valid(kernel->plan, results))
        TF_SetStatus(status, INVALID_ARGUMENT, OTHER_VERSION);
    }
  }
  if (TF_GetCode(status)) TF_OpKernelConstruction_Failure(context, status);
  TF_DeleteStatus(status);
  return kernel;
}

static void destroy(void *kernel) { free(kernel); }

static int64_t resolved(int64_t length, const Sizes *sizes) {
  const int64_t m = sizes->m, n = sizes->n;
  if (length >= 0) return length;
  if (length == ROWS) return m;
  if (length == COLUMNS) return n;
  return length == SHORTER ? (m < n ? m : n) : TALL_BLOCKS(m > n ? m : n);
}

static void compute(void *state, Context *context) {
  const Kernel *kernel = state;
  Status *status = TF_NewStatus();
  Tensor *tensors[MOST_BUFFERS] = {0};
  int64_t dims[MOST_BUFFERS][MOST_AXES];
  Buffer buffers[MOST_BUFFERS];
  const int operands = TF_NumInputs(context);
  int count = 0;
  if (operands + kernel->results > MOST_BUFFERS)
    TF_SetStatus(status, INVALID_ARGUMENT, "svdinv: too many arrays");
  for (; count < operands && !TF_GetCode(status); count++) {
    Tensor *tensor = 0;
    TF_GetInput(context, count, &tensor, status);
    if (TF_GetCode(status)) break;
    tensors[count] = tensor;
    const int rank = TF_NumDims(tensor);
    if (rank > MOST_AXES) {
      TF_SetStatus(status, INVALID_ARGUMENT, TOO_MANY_AXES);
      break;
    }
    for (int i = 0; i < rank; i++) dims[count][i] = TF_Dim(tensor, i);
    buffers[count] = (Buffer){TF_TensorData(tensor), rank, dims[count]};
  }
  if (!TF_GetCode(status) && !fits(kernel->plan, buffers, operands, kernel->results))
    TF_SetStatus(status, INVALID_ARGUMENT, OTHER_VERSION);
  if (!TF_GetCode(status)) {
    const Sizes sizes = sizes_of(kernel->plan, buffers);
    for (int i = 0; i < kernel->results && !TF_GetCode(status); i++, count++) {
      const int64_t *result = kernel->plan + PLAN_LENGTH + RESULT * i;
      const int rank = (int)(sizes.axes + result[0]), type =
          TF_ExpectedOutputDataType(context, i);
      if (rank > MOST_AXES) {
        TF_SetStatus(status, INVALID_ARGUMENT, TOO_MANY_AXES);
        break;
      }
      size_t bytes = TF_DataTypeSize(type);
      for (int axis = 0; axis < rank; axis++) {
        dims[count][axis] = axis < sizes.axes
                                ? sizes.dims[axis]
                                : resolved(result[1 + axis - sizes.axes], &sizes);
        bytes *= (size_t)dims[count][axis];
      }
      tensors[count] =
          TF_AllocateOutput(context, i, type, dims[count], rank, bytes, status);
      if (TF_GetCode(status)) break;
      buffers[count] = (Buffer){TF_TensorData(tensors[count]), rank, dims[count]};
    }
    if (!TF_GetCode(status) && run_plan(kernel->plan, &sizes, buffers) < 0)
      TF_SetStatus(status, RESOURCE_EXHAUSTED,
                   "svdinv: no memory for the kernels of small matrices");
  }
  for (int i = 0; i < MOST_BUFFERS; i++)
    if (tensors[i]) TF_DeleteTensor(tensors[i]);
  if (TF_GetCode(status)) TF_OpKernelContext_Failure(context, status);
  TF_DeleteStatus(status);
}

/* Python sets the shapes that are known while it traces. */
static void infer(Inference *context, Status *status) {
  TF_ShapeInferenceContextSetUnknownShape(context, status);
}

__attribute__((constructor)) static void enter(void) {
  void *library = dlopen("libtensorflow_framework.so.2", RTLD_NOLOAD | RTLD_LAZY);
  if (!library) library = dlopen("libtensorflow_framework.2.dylib", RTLD_NOLOAD | RTLD_LAZY);
  if (!library) return;
#define LOOK_UP(type, name, arguments) \
  if (!(*(void **)&name = dlsym(library, #name))) return;
  FUNCTIONS(LOOK_UP)
  Status *status = TF_NewStatus();
  Definition *definition = TF_NewOpDefinitionBuilder(OPERATION);
  TF_OpDefinitionBuilderAddAttr(definition, "Tin: list(type)");
  TF_OpDefinitionBuilderAddAttr(definition, "Tout: list(type)");
  TF_OpDefinitionBuilderAddAttr(definition, "plan: list(int)");
  TF_OpDefinitionBuilderAddInput(definition, "x: Tin");
  TF_OpDefinitionBuilderAddOutput(definition, "y: Tout");
  TF_OpDefinitionBuilderSetShapeInferenceFunction(definition, infer);
  TF_RegisterOpDefinition(definition, status);
  if (!TF_GetCode(status)) {
    Builder *builder = TF_NewKernelBuilder(OPERATION, "CPU", construct, compute, destroy);
    TF_RegisterKernelBuilder(OPERATION, builder, status);
  }
  TF_DeleteStatus(status);
}
