// Python's way to upfirdn2d.cu.

#include "upfirdn2d.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>

#include "binding.h"

namespace {

using Pair = std::array<int, 2>;  // x, y

// Writes into `out`, which has the input's dtype and order of memory. `filter` is float32, of one or two dimensions;
// without one a single tap of 1 is meant. `pad` counts zeros before the first column and the first row.
void upfirdn2d(const at::Tensor& out, const at::Tensor& in, const std::optional<at::Tensor>& filter, Pair up, Pair down,
               Pair pad, bool flip_filter, double gain, bool channels_last, std::uintptr_t stream) {
    TORCH_CHECK(in.dim() == 4 && out.dim() == 4 && in.scalar_type() == out.scalar_type() && in.device() == out.device(),
                "expected two pictures [N, C, H, W] of one dtype on one device, got ", in.toString(), " ", in.sizes(), " and ",
                out.toString(), " ", out.sizes());
    eg3d::Upfirdn2d call{};
    call.dtype = eg3d::dtype_of(in);
    call.in = in.const_data_ptr();
    call.out = out.mutable_data_ptr();
    call.batch = in.size(0);
    call.channels = in.size(1);
    call.channels_last = channels_last;
    const auto axis = [&](int dim, int which) -> eg3d::Axis {
        TORCH_CHECK(std::max(in.size(dim), out.size(dim)) * std::max(up[which], down[which]) < (1LL << 30),
                    "pictures of ", in.sizes(), " are too large");
        return {static_cast<int>(in.size(dim)), static_cast<int>(out.size(dim)), up[which], down[which], 1, pad[which]};
    };
    call.x = axis(3, 0);
    call.y = axis(2, 1);
    call.gain = gain;
    if (filter) {
        TORCH_CHECK(filter->scalar_type() == at::kFloat && filter->device() == in.device() && filter->is_contiguous() &&
                        (filter->dim() == 1 || filter->dim() == 2),
                    "expected a filter of float32 on ", in.device());
        call.filter = filter->const_data_ptr<float>();
        call.separable = filter->dim() == 1;
        call.x.taps = static_cast<int>(filter->size(-1));
        call.y.taps = static_cast<int>(filter->size(0));
        const int direction = flip_filter ? 1 : -1;  // a convolution reads its filter backwards
        call.origin = flip_filter ? 0 : static_cast<int>(filter->numel()) - 1;
        call.stride_x = direction;
        call.stride_y = direction * call.x.taps;
    }
    if (out.numel() == 0) return;
    if (!call.separable || eg3d::is_fused(call)) return eg3d::run(eg3d::upfirdn2d, call, out, stream);

    const std::array<std::int64_t, 4> sizes{in.size(0), in.size(1), in.size(2), out.size(3)};
    const at::Tensor rows = at::empty(sizes, in.options().memory_format(
        channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous));
    eg3d::Upfirdn2d first = call, second = call;
    first.out = rows.mutable_data_ptr();
    first.y = {call.y.in, call.y.in, 1, 1, 1, 0};
    first.gain = 1;
    second.in = rows.const_data_ptr();
    second.x = {call.x.out, call.x.out, 1, 1, 1, 0};
    second.stride_y = call.stride_x;
    first.separable = second.separable = false;
    eg3d::run(eg3d::upfirdn2d, first, out, stream);
    eg3d::run(eg3d::upfirdn2d, second, out, stream);
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
    m.def("upfirdn2d", &upfirdn2d);
}
