// Runs CUDA kernels on the CPU, so that their arithmetic and their indices can be tested without a GPU. Include it before
// a .cu file and compile both as C++; CUDA's headers, but no GPU, driver or nvcc, are needed.
//
// Blocks run one after another. The threads of a block are coroutines: a barrier, of a block or of a warp, lets others run
// until all of those whom it holds have reached it; what lanes tell each other goes through memory between two barriers.
// Threads take turns from the first to the last or the other way, by chance, so that a missing barrier is likely to show.
// Launches get at most GRID blocks: kernels must loop over the rest.

#pragma once

#include <cuda_runtime.h>
#include <ucontext.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

namespace cuda_on_cpu {

constexpr unsigned GRID = 7;
constexpr unsigned BARRIER_STACK = 64 * 1024;  // bytes for a thread's variables
constexpr unsigned WARP = 32;
constexpr unsigned SHARED = 99 * 1024;  // bytes that a block can have: what a card for games has

uint3 thread, block;
dim3 block_size, grid_size;

std::vector<ucontext_t> threads;
ucontext_t scheduler;
std::vector<bool> finished;
std::vector<unsigned> block_barriers, warp_barriers;  // that each thread has reached
std::vector<double> told;  // by each thread to its warp
std::vector<uint4> shared;  // as much as the launch asks for

using Body = void (*)(void*);
Body body;
void* body_arguments;

inline void enter() {
    const unsigned self = thread.x;
    body(body_arguments);
    finished[self] = true;
}

// Waits until threads first to last have reached as many of these barriers as this one, or are done.
inline void wait(std::vector<unsigned>& reached, unsigned first, unsigned last) {
    const unsigned self = thread.x, mine = ++reached[self];
    for (unsigned other = first; other < last;) {
        if (finished[other] || reached[other] >= mine) ++other;
        else swapcontext(&threads[self], &scheduler);
    }
}

inline void barrier() { wait(block_barriers, 0, block_size.x); }

inline int lane() { return thread.x % WARP; }

inline void warp_barrier() {
    const unsigned first = thread.x - lane();
    wait(warp_barriers, first, first + WARP);
}

// What lane `from` of the same warp tells, or this thread's own where there is no such lane.
template <class T> T exchange(T value, int from) {
    static_assert(sizeof(T) <= sizeof(double));
    std::memcpy(&told[thread.x], &value, sizeof value);
    warp_barrier();
    if (from >= 0 && from < int(WARP)) std::memcpy(&value, &told[thread.x - lane() + from], sizeof value);
    warp_barrier();
    return value;
}

inline unsigned ballot(bool vote) {
    told[thread.x] = vote;
    warp_barrier();
    const unsigned first = thread.x - lane();
    unsigned votes = 0;
    for (unsigned other = 0; other < WARP; ++other) votes |= unsigned(told[first + other]) << other;
    warp_barrier();
    return votes;
}

template <class T> void add(T* to, T value) { *to += value; }

inline void run_block() {
    std::vector<std::vector<char>> stacks(block_size.x, std::vector<char>(BARRIER_STACK));
    threads.assign(block_size.x, {});
    finished.assign(block_size.x, false);
    block_barriers.assign(block_size.x, 0);
    warp_barriers.assign(block_size.x, 0);
    told.assign(block_size.x, 0);
    for (unsigned i = 0; i < block_size.x; ++i) {
        getcontext(&threads[i]);
        threads[i].uc_stack.ss_sp = stacks[i].data();
        threads[i].uc_stack.ss_size = stacks[i].size();
        threads[i].uc_link = &scheduler;
        makecontext(&threads[i], enter, 0);
    }
    std::minstd_rand coin;
    for (bool running = true; running;) {
        running = false;
        const bool backwards = coin() >> 8 & 1;
        for (unsigned each = 0; each < block_size.x; ++each) {
            const unsigned i = backwards ? block_size.x - 1 - each : each;
            if (finished[i]) continue;
            thread.x = i;
            swapcontext(&scheduler, &threads[i]);
            running = true;
        }
    }
}

template <class Arguments>
cudaError_t launch(void (*kernel)(Arguments), dim3 grid, dim3 size, void** values, size_t bytes) {
    if (bytes > SHARED) return cudaErrorInvalidValue;
    static void (*current)(Arguments);
    current = kernel;
    body = [](void* arguments) { current(*static_cast<Arguments*>(arguments)); };
    body_arguments = values[0];
    block_size = size;
    grid_size = dim3(grid.x < GRID ? grid.x : GRID);
    for (block.x = 0; block.x < grid_size.x; ++block.x) {
        shared.assign(bytes / sizeof(uint4) + 1, uint4{~0u, ~0u, ~0u, ~0u});  // NaN, and -1
        run_block();
    }
    return cudaSuccess;
}

inline cudaError_t attribute(int* value, cudaDeviceAttr which) {
    *value = which == cudaDevAttrMaxSharedMemoryPerBlockOptin ? SHARED : 1;
    return cudaSuccess;
}

inline cudaError_t set(int* value, int to) {
    *value = to;
    return cudaSuccess;
}

}  // namespace cuda_on_cpu

#undef __shared__
#define __shared__ static
#undef __launch_bounds__
#define __launch_bounds__(...)
#define DYNAMIC_SHARED_MEMORY(name) uint4* name = cuda_on_cpu::shared.data()
#define threadIdx cuda_on_cpu::thread
#define blockIdx cuda_on_cpu::block
#define blockDim cuda_on_cpu::block_size
#define gridDim cuda_on_cpu::grid_size
#define __syncthreads() cuda_on_cpu::barrier()
#define __syncwarp() cuda_on_cpu::warp_barrier()
#define __shfl_sync(mask, value, lane) cuda_on_cpu::exchange(value, lane)
#define __shfl_xor_sync(mask, value, apart) cuda_on_cpu::exchange(value, cuda_on_cpu::lane() ^ int(apart))
#define __shfl_up_sync(mask, value, apart) cuda_on_cpu::exchange(value, cuda_on_cpu::lane() - int(apart))
#define __shfl_down_sync(mask, value, apart) cuda_on_cpu::exchange(value, cuda_on_cpu::lane() + int(apart))
#define __ballot_sync(mask, vote) cuda_on_cpu::ballot(vote)
#define __popc(bits) __builtin_popcount(bits)
#define __expf(x) std::exp(x)
#define __logf(x) std::log(x)
#define __fdividef(a, b) ((a) / (b))
#define atomicAdd(to, value) cuda_on_cpu::add(to, value)
#define cudaLaunchKernel(kernel, grid, block, values, bytes, stream) cuda_on_cpu::launch(kernel, grid, block, values, bytes)
#define cudaGetErrorString(status) "no CUDA here"
#define cudaGetLastError() void()
#define cudaGetDevice(device) cuda_on_cpu::set(device, 0)
#define cudaDeviceGetAttribute(value, which, device) cuda_on_cpu::attribute(value, which)
#define cudaFuncSetAttribute(kernel, which, value) cudaSuccess
#define cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, kernel, threads, bytes) cuda_on_cpu::set(blocks, 3)
