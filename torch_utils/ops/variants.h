// Vector code for several instruction sets, of which the best one runs. Including this file includes VECTOR_CODE once for each,
// with VARIANT (a namespace) and BYTES (of a register). BEST(variant, call) is then what VARIANT::call gives, by the numbers of
// custom_ops.best_variant.

#define EACH(i, n) _Pragma("GCC unroll 8") for (int i = 0; i < (n); ++i)

#define VARIANT baseline
#define BYTES 16
#include VECTOR_CODE
#undef VARIANT
#undef BYTES

#if defined(__x86_64__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define VARIANT avx2
#define BYTES 32
#include VECTOR_CODE
#undef VARIANT
#undef BYTES
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")
#define VARIANT avx512
#define BYTES 64
#include VECTOR_CODE
#undef VARIANT
#undef BYTES
#pragma GCC pop_options
#define BEST(variant, call) ((variant) == 2 ? avx512::call : (variant) == 1 ? avx2::call : baseline::call)
#else
#define BEST(variant, call) (static_cast<void>(variant), baseline::call)
#endif
