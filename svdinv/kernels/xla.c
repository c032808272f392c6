/* The kernels as a custom call of XLA, which JAX makes.
 *
 * The attribute `plan` holds 64-bit integers: kind, variant, type, threads, batch, m, n,
 * adjoint, the buffer of `failed`, the bits of both numbers, and for each of the twelve
 * arrays its buffer and its strides, in real numbers.  Buffers are counted through the
 * operands and then through the results; -1 is none.
 */
#include <stdint.h>
#include <string.h>

#include "xla/ffi/api/c_api.h"

typedef void T;
#include "task.h"

int svdinv_run(int kind, int variant, int type, int most_threads, int64_t batch,
               const Task *task);

static void *buffer(const XLA_FFI_CallFrame *call, int64_t index) {
  if (index < 0) return 0;
  const int64_t operands = call->args.size;
  const XLA_FFI_Buffer *found = index < operands ? call->args.args[index]
                                                 : call->rets.rets[index - operands];
  return found->data;
}

__attribute__((visibility("default"))) XLA_FFI_Error *svdinv_xla(
    XLA_FFI_CallFrame *call) {
  if (call->extension_start &&
      call->extension_start->type == XLA_FFI_Extension_Metadata) {
    XLA_FFI_Metadata *about =
        ((XLA_FFI_Metadata_Extension *)call->extension_start)->metadata;
    about->api_version.major_version = XLA_FFI_API_MAJOR;
    about->api_version.minor_version = XLA_FFI_API_MINOR;
    return 0;
  }
  const int64_t *plan = ((const XLA_FFI_Array *)call->attrs.attrs[0])->data;
  Task task = {.m = plan[5], .n = plan[6], .adjoint = plan[7]};
  task.failed = buffer(call, plan[8]);
  memcpy(task.number, plan + 9, sizeof task.number);
  for (int i = 0; i < 12; i++) {
    const int64_t *array = plan + 11 + 4 * i;
    task.array[i] = (Array){buffer(call, array[0]), array[1], array[2], array[3]};
  }
  if (svdinv_run((int)plan[0], (int)plan[1], (int)plan[2], (int)plan[3], plan[4],
                 &task) < 0) {
    XLA_FFI_Error_Create_Args error = {
        .struct_size = XLA_FFI_Error_Create_Args_STRUCT_SIZE,
        .message = "svdinv: no memory for the kernels of small matrices",
        .errc = XLA_FFI_Error_Code_RESOURCE_EXHAUSTED,
    };
    return call->api->XLA_FFI_Error_Create(&error);
  }
  return 0;
}
