#pragma once
/* Rows that are worked on together; the number is also in svdinv/kernels/__init__.py. */
#define TALL_ROWS 1024
#define TALL_BLOCKS(m) (((m) + TALL_ROWS - 1) / TALL_ROWS)
