/* The kernels as a custom call of XLA, which JAX makes; its attribute is a plan. */
#include "graph.h"
#include "xla.h"

#define MOST_BUFFERS 24

__attribute__((visibility("default"))) void *svdinv_xla(XlaCallFrame *call) {
  if (call->extension_start && call->extension_start->type == XLA_METADATA) {
    XlaVersion *version =
        &((XlaMetadataExtension *)call->extension_start)->metadata->api_version;
    version->major_version = XLA_MAJOR;
    version->minor_version = XLA_MINOR;
    return 0;
  }
  const int64_t *plan = ((const XlaArray *)call->attrs.attrs[0])->data;
  Buffer buffers[MOST_BUFFERS];
  const int64_t operands = call->args.size, count = operands + call->rets.size;
  for (int64_t i = 0; i < count; i++) {
    const XlaBuffer *found = i < operands ? call->args.buffers[i]
                                          : call->rets.buffers[i - operands];
    buffers[i] = (Buffer){found->data, found->rank, found->dims};
  }
  const Sizes sizes = sizes_of(plan, buffers);
  if (run_plan(plan, &sizes, buffers) >= 0) return 0;
  XlaError error = {
      .struct_size = sizeof error,
      .message = "svdinv: no memory for the kernels of small matrices",
      .errc = XLA_RESOURCE_EXHAUSTED,
  };
  return call->api->error_create(&error);
}
