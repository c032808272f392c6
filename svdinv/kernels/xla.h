#pragma once
/* What `xla.c` uses of the C interface of XLA's foreign functions, version 0.1: the layout of
 * its structures is stable within version 0.  tests/test_kernels.py compares it with the
 * header that jaxlib brings, xla/ffi/api/c_api.h. */
#include <stddef.h>
#include <stdint.h>

#define XLA_MAJOR 0
#define XLA_MINOR 1
#define XLA_METADATA 1           /* XLA_FFI_Extension_Metadata */
#define XLA_RESOURCE_EXHAUSTED 8 /* XLA_FFI_Error_Code_RESOURCE_EXHAUSTED */

typedef struct XlaExtension {
  size_t struct_size;
  int type;
  struct XlaExtension *next;
} XlaExtension;

typedef struct {
  size_t struct_size;
  XlaExtension *extension_start;
  int major_version, minor_version;
} XlaVersion;

typedef struct {
  size_t struct_size;
  XlaVersion api_version;
} XlaMetadata; /* its first fields */

typedef struct {
  XlaExtension extension_base;
  XlaMetadata *metadata;
} XlaMetadataExtension;

typedef struct {
  size_t struct_size;
  XlaExtension *extension_start;
  int dtype;
  void *data;
  int64_t rank;
  int64_t *dims;
} XlaBuffer;

typedef struct {
  int dtype;
  size_t size;
  void *data;
} XlaArray;

typedef struct {
  size_t struct_size;
  XlaExtension *extension_start;
  int64_t size;
  int *types;
  void **buffers;
} XlaBuffers; /* XLA_FFI_Args and XLA_FFI_Rets */

typedef struct {
  size_t struct_size;
  XlaExtension *extension_start;
  int64_t size;
  int *types;
  void **names;
  void **attrs;
} XlaAttrs;

typedef struct {
  size_t struct_size;
  XlaExtension *extension_start;
  const char *message;
  int errc;
} XlaError;

typedef struct {
  size_t struct_size;
  XlaExtension *extension_start;
  XlaVersion api_version;
  const void *internal_api;
  void *(*error_create)(XlaError *);
} XlaApi; /* its first fields */

typedef struct {
  size_t struct_size;
  XlaExtension *extension_start;
  const XlaApi *api;
  void *ctx;
  int stage;
  XlaBuffers args, rets;
  XlaAttrs attrs;
} XlaCallFrame; /* its first fields */
