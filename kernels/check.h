// Programmer errors end the process. Never used on what a user or a file can cause.
#pragma once

#include <cstdio>
#include <cstdlib>

#define PALU_CHECK(condition)                                                                 \
  do {                                                                                        \
    if (!(condition)) {                                                                       \
      std::fprintf(stderr, "%s:%d: check failed: %s\n", __FILE_NAME__, __LINE__, #condition); \
      std::abort();                                                                           \
    }                                                                                         \
  } while (false)
