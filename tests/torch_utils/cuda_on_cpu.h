// Runs CUDA kernels on the CPU, so that their arithmetic and their indices can be tested without a GPU. Include it before
// a .cu file and compile both as C++; CUDA's headers, but no GPU, driver or nvcc, are needed.
//
// Blocks run one after another. The threads of a block are coroutines: __syncthreads() lets the next one run, so that all of
// them reach a barrier before any of them passes it. Launches get at most GRID blocks: kernels must loop over the rest.

#pragma once

#include <cuda_runtime.h>
#include <ucontext.h>

#include <vector>

namespace cuda_on_cpu {

constexpr unsigned GRID = 7;
constexpr unsigned BARRIER_STACK = 64 * 1024;  // bytes for a thread's variables

uint3 thread, block;
dim3 block_size, grid_size;

std::vector<ucontext_t> threads;
ucontext_t scheduler;
std::vector<bool> finished;

using Body = void (*)(void*);
Body body;
void* body_arguments;

inline void enter() {
    const unsigned self = thread.x;
    body(body_arguments);
    finished[self] = true;
}

inline void barrier() { swapcontext(&threads[thread.x], &scheduler); }

inline void run_block() {
    std::vector<std::vector<char>> stacks(block_size.x, std::vector<char>(BARRIER_STACK));
    threads.assign(block_size.x, {});
    finished.assign(block_size.x, false);
    for (unsigned i = 0; i < block_size.x; ++i) {
        getcontext(&threads[i]);
        threads[i].uc_stack.ss_sp = stacks[i].data();
        threads[i].uc_stack.ss_size = stacks[i].size();
        threads[i].uc_link = &scheduler;
        makecontext(&threads[i], enter, 0);
    }
    for (bool running = true; running;) {
        running = false;
        for (unsigned i = 0; i < block_size.x; ++i) {
            if (finished[i]) continue;
            thread.x = i;
            swapcontext(&scheduler, &threads[i]);
            running = true;
        }
    }
}

template <class Arguments>
cudaError_t launch(void (*kernel)(Arguments), dim3 grid, dim3 size, void** values) {
    static void (*current)(Arguments);
    current = kernel;
    body = [](void* arguments) { current(*static_cast<Arguments*>(arguments)); };
    body_arguments = values[0];
    block_size = size;
    grid_size = dim3(grid.x < GRID ? grid.x : GRID);
    for (block.x = 0; block.x < grid_size.x; ++block.x) run_block();
    return cudaSuccess;
}

}  // namespace cuda_on_cpu

#undef __shared__
#define __shared__ static
#undef __launch_bounds__
#define __launch_bounds__(threads)
#define threadIdx cuda_on_cpu::thread
#define blockIdx cuda_on_cpu::block
#define blockDim cuda_on_cpu::block_size
#define gridDim cuda_on_cpu::grid_size
#define __syncthreads() cuda_on_cpu::barrier()
#define cudaLaunchKernel(kernel, grid, block, values, bytes, stream) cuda_on_cpu::launch(kernel, grid, block, values)
#define cudaGetErrorString(status) "no CUDA here"
#define cudaGetLastError() cudaSuccess
