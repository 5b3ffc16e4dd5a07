// Python's way to bias_act.cu.

#include "bias_act.h"

#include <string>

#include "binding.h"

namespace {

constexpr const char* NAMES[] = {"linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"};

eg3d::Activation activation(const std::string& name) {
    int index = 0;
    for (const char* known : NAMES) {
        if (name == known) return static_cast<eg3d::Activation>(index);
        ++index;
    }
    TORCH_CHECK(false, "unknown activation ", name);
}

// Writes into `out`, whose size, dtype and order of memory all arrays but `b` share.
void bias_act(const at::Tensor& out, const std::optional<at::Tensor>& x, const std::optional<at::Tensor>& b,
              const std::optional<at::Tensor>& y, const std::optional<at::Tensor>& dy, const std::optional<at::Tensor>& ddx,
              long long step, const std::string& act, double alpha, double gain, double clamp, std::uintptr_t stream) {
    const auto data = [&](const std::optional<at::Tensor>& tensor, bool alike) -> const void* {
        if (!tensor) return nullptr;
        TORCH_CHECK(tensor->scalar_type() == out.scalar_type() && tensor->device() == out.device(), "expected ",
                    out.scalar_type(), " on ", out.device(), ", got ", tensor->scalar_type(), " on ", tensor->device());
        TORCH_CHECK(alike ? tensor->sizes() == out.sizes() : tensor->is_contiguous(),
                    "shape ", tensor->sizes(), " beside ", out.sizes());
        return tensor->const_data_ptr();
    };
    eg3d::BiasAct call{};
    call.dtype = eg3d::dtype_of(out);
    call.act = activation(act);
    call.x = data(x, true);
    call.b = data(b, false);
    call.y = data(y, true);
    call.dy = data(dy, true);
    call.ddx = data(ddx, true);
    call.out = out.mutable_data_ptr();
    call.size = out.numel();
    call.channels = b ? b->numel() : 1;
    call.step = step;
    call.alpha = alpha;
    call.gain = gain;
    call.clamp = clamp;
    if (call.size == 0) return;
    eg3d::run(eg3d::bias_act, call, out, stream);
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
    m.def("bias_act", &bias_act);
}
