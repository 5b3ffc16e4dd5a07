// Tri-plane rendering and its gradients on a GPU. fused.py calls the functions at the end by ctypes; nothing of PyTorch is
// needed to build them. fused.cuh has what a warp does, fused_forward.cuh and fused_backward.cuh have the kernels.
//
// A warp renders a ray, or decodes tiles of points; the decoder is in shared memory, and no sample's feature, hidden layer or
// colour is ever in the card's memory. Colours are computed where they count, from features looked up once more. Gradients
// need two rounds: densities and what each colour pulls, along the rays of a block; then, for the samples that count,
// everything once more and backwards, while the threads of the block keep sums of the decoder's gradients in registers.
//
// What bounds it: with T samples a ray, of which T' have a colour, a ray takes 2112 T + 4096 T' multiplications with additions,
// and reads 4 P (T + T') lines of 128 bytes, most of them from the L2 cache. For 128 x 128 rays, T = 192, T' = 96 and P = 3
// that is 13 G of the former, 0.4 ms at an H100's 33 T a second, and 7 GB of the latter, 1.3 ms at 5.5 TB a second: look-ups,
// not arithmetic. Folded planes (P = 2) take a third off. Backwards, 4 P lines are added to for each of T', by atomic units
// of the L2 cache. None of this is measured yet.

#include <algorithm>

#include "fused_backward.cuh"
#include "fused_forward.cuh"

namespace eg3d {
namespace {

// What a launch answers: null, or the reason why it failed.
using Failure = const char*;
using Kernel = void (*)(Launch);

Failure reason(cudaError_t status) {
    if (status == cudaSuccess) return nullptr;
    cudaGetLastError();  // told here, it is not to be found by others
    return cudaGetErrorString(status);
}

Int divide_up(Int a, Int b) { return (a + b - 1) / b; }

// Gives a block as many rays as its shared memory holds, at most `most`; so many need bytes_of(rays).
template <class Bytes> Failure fit(Kernel kernel, int most, const Bytes& bytes_of, Launch& launch) {
    int device = 0, limit = 0;
    cudaError_t status = cudaGetDevice(&device);
    if (status == cudaSuccess) status = cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (status != cudaSuccess) return reason(status);
    launch.rays = most;
    while (launch.rays > 0 && bytes_of(launch.rays) > limit) --launch.rays;
    if (launch.rays == 0) return "so many samples need more shared memory than this card has; impl='ref' needs none";
    const int bytes = static_cast<int>(bytes_of(launch.rays));
    return reason(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

Failure start(Kernel kernel, Launch launch, Int blocks, int warps, std::size_t bytes, void* stream) {
    const dim3 grid(static_cast<unsigned>(least(blocks, Int(0x7fffffff)))), block(static_cast<unsigned>(warps * WARP));
    void* values[] = {&launch};
    return reason(cudaLaunchKernel(kernel, grid, block, values, bytes, static_cast<cudaStream_t>(stream)));
}

// Where warps work alone.
template <class Bytes> Failure start_forward(Kernel kernel, Launch launch, Int units, const Bytes& bytes_of, void* stream) {
    if (const Failure failure = fit(kernel, MOST_WARPS, bytes_of, launch)) return failure;
    const std::size_t bytes = static_cast<std::size_t>(bytes_of(launch.rays));
    return start(kernel, launch, divide_up(units, launch.rays), launch.rays, bytes, stream);
}

// Where a block's warps work together; units_of(rays) are all there is to do. Blocks are as many as run at once, so that each
// adds its sums to the decoder's gradients once.
template <class Units, class Bytes>
Failure start_backward(Kernel kernel, Launch launch, const Units& units_of, const Bytes& bytes_of, void* stream) {
    if (const Failure failure = fit(kernel, BACKWARD_WARPS, bytes_of, launch)) return failure;
    int device = 0, processors = 0, blocks = 0;
    const std::size_t bytes = static_cast<std::size_t>(bytes_of(launch.rays));
    cudaError_t status = cudaGetDevice(&device);
    if (status == cudaSuccess) status = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    if (status == cudaSuccess)
        status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, BACKWARD_WARPS * WARP, bytes);
    if (status != cudaSuccess) return reason(status);
    return start(kernel, launch, least(units_of(launch.rays), Int(processors) * blocks), BACKWARD_WARPS, bytes, stream);
}

template <class T> Failure decode(const Call& call, void* stream) {
    const Int tiles = divide_up(call.many, ForwardMemory<T>::SAMPLES);
    return start_forward(decode_kernel<T>, {call, 0, 0}, call.items * tiles, [&](int warps) {
        Pieces pieces{};
        ForwardMemory<T>(pieces, call.planes.count, warps);
        return pieces.used;
    }, stream);
}

template <class T> Failure decode_backward(const Call& call, void* stream) {
    const Int runs = divide_up(call.many, BackwardMemory<T>::ALL_SAMPLES);
    return start_backward(decode_backward_kernel<T>, {call, 0, 0}, [&](int) { return call.items * runs; }, [&](int) {
        Pieces pieces{};
        BackwardMemory<T>(pieces, call.planes.count);
        return pieces.used;
    }, stream);
}

template <class T> Failure render(const Call& call, void* stream) {
    if (call.fine > 0 && call.coarse < FEWEST_COARSE) return "a second pass needs four samples of the first";
    const int all = static_cast<int>(call.coarse + call.fine);
    int room = call.fine > 0 ? 1 : all;
    while (room < all) room *= 2;  // sorting asks for a power of two
    return start_forward(render_kernel<T>, {call, 0, room}, call.items * call.many, [&](int rays) {
        Pieces pieces{};
        ForwardMemory<T>(pieces, call.planes.count, rays);
        RayMemory<T>(pieces, rays * room);
        return pieces.used;
    }, stream);
}

template <class T> Failure render_backward(const Call& call, void* stream) {
    const int all = static_cast<int>(call.coarse);
    const auto groups = [&](int rays) { return call.items * divide_up(call.many, rays); };
    return start_backward(render_backward_kernel<T>, {call, 0, all}, groups, [&](int rays) {
        Pieces pieces{};
        BackwardMemory<T>(pieces, call.planes.count);
        RayGradientMemory<T>(pieces, rays, all);
        return pieces.used;
    }, stream);
}

// Kernels count the numbers of a plane, and of an item's gradient, by 31 bits.
bool too_large(const Planes& planes) {
    const Int most = planes.height * planes.stride[2] + planes.width * planes.stride[3];
    return std::max(most, planes.height * planes.width * planes.count * C) >> 31 != 0;
}

}  // namespace
}  // namespace eg3d

// ------------------------------------------------------------------------------------------------ for ctypes
// Work is queued on `stream`. Planes begin at multiples of 16 bytes, and so do their pixels. Answers null, or why it failed.

#define EXPORT(function)                                                                                          \
    extern "C" const char* function(const eg3d::Call& call, void* stream) {                                       \
        if (eg3d::too_large(call.planes)) return "planes of 2^31 numbers or more; impl='ref' takes them";         \
        return call.is_double ? eg3d::function<double>(call, stream) : eg3d::function<float>(call, stream);       \
    }

EXPORT(decode)
EXPORT(decode_backward)
EXPORT(render)
EXPORT(render_backward)
