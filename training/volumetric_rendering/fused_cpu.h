// The tri-plane field, its compositing and the gradients of both, in vector code. See fused.py for what is computed.
//
// variants.h includes this file and its parts once for each instruction set, with VARIANT (a namespace) and BYTES (of a register).
// Notation: K samples in a list, C / H / O numbers of a feature, of the hidden layer and of a colour. T is float or double.

namespace VARIANT {

#include "fused_cpu_vectors.h"

#include "fused_cpu_field.h"

#include "fused_cpu_rays.h"

// Work(from, to, item) on the pieces, of at most `most` and of one item each, of thread `index`'s share of all points or rays.
template <class Work> inline void share_out(const Call& call, Int index, Int most, Work work) {
    const Int total = call.items * call.many, end = total * (index + 1) / call.threads;
    for (Int first = total * index / call.threads; first < end;) {
        const Int item = first / call.many, last = std::min({first + most, end, (item + 1) * call.many});
        work(first, last, item);
        first = last;
    }
}

template <class Work> inline void in_threads(const Call& call, Work work) {
#pragma omp parallel for num_threads(call.threads) schedule(static, 1)
    for (Int index = 0; index < call.threads; ++index) work(index);
}

template <class T> inline const T* as(const void* array) { return static_cast<const T*>(array); }

template <class T> Decoder<T> decoder_of(const Call& call) {
    return Decoder<T>(as<T>(call.w1), as<T>(call.b1), as<T>(call.w2), as<T>(call.b2));
}

// Where threads leave gradients. A batch item belongs to the thread that has its first point or ray; a thread that begins
// amid an item adds to an array of its own there, so that no two write to one place.
template <class T> class Gradients {
public:
    Gradients(const Call& call, const Planes& planes)
        : call(call), size(planes.count * planes.height * planes.width * C), own(call.threads), decoders(call.threads) {}

    T* planes(Int index, Int item) {
        if (call.items * call.many * index / call.threads <= item * call.many) return whole(item);
        own[index].resize(size);
        return own[index].data();
    }

    Decoder<double>& decoder(Int index) { return decoders[index]; }

    void finish() {
        for (Int index = 0; index < call.threads; ++index) {
            decoders[index].add_to(static_cast<T*>(call.d_w1), static_cast<T*>(call.d_b1), static_cast<T*>(call.d_w2),
                                   static_cast<T*>(call.d_b2));
            T* to = whole(call.items * call.many * index / call.threads / call.many);
            for (std::size_t i = 0; i < own[index].size(); ++i) to[i] += own[index][i];
        }
    }

private:
    const Call& call;
    const Int size;
    std::vector<std::vector<T>> own;
    std::vector<Decoder<double>> decoders;

    T* whole(Int item) { return static_cast<T*>(call.d_planes) + item * size; }
};

template <class T> void render(const Call& call) {
    const Planes planes = call.planes;
    const Decoder<T> decoder = decoder_of<T>(call);
    in_threads(call, [&](Int index) {
        Group<T> group(call, planes, decoder);
        share_out(call, index, group.rays(), [&](Int first, Int last, Int) { group.forward(first, last); });
    });
}

template <class T> void render_backward(const Call& call) {
    const Planes planes = call.planes;
    const Decoder<T> decoder = decoder_of<T>(call);
    Gradients<T> gradients(call, planes);
    in_threads(call, [&](Int index) {
        Group<T> group(call, planes, decoder);
        share_out(call, index, group.rays(), [&](Int first, Int last, Int item) {
            group.backward(first, last, as<T>(call.w2) + H, as<T>(call.w1), gradients.planes(index, item),
                           gradients.decoder(index));
        });
    });
    gradients.finish();
}

// Samples of points first to last, all of them in the list.
template <class T> void read_points(const Call& call, Samples<T>& samples, std::vector<int>& list, Int first, Int last) {
    std::copy_n(as<T>(call.points) + 3 * first, 3 * (last - first), samples.point.begin());
    samples.encode(first / call.many, 0, last - first);
    list.resize(last - first);
    std::iota(list.begin(), list.end(), 0);
    if (call.rgb) samples.color_in(list);
}

template <class T> void decode(const Call& call) {
    const Planes planes = call.planes;
    const Decoder<T> decoder = decoder_of<T>(call);
    in_threads(call, [&](Int index) {
        Samples<T> samples(planes, decoder, SAMPLES_AT_ONCE);
        std::vector<int> list;
        share_out(call, index, SAMPLES_AT_ONCE, [&](Int first, Int last, Int) {
            read_points(call, samples, list, first, last);
            std::copy_n(samples.sigma.begin(), last - first, static_cast<T*>(call.sigma) + first);
            T* rgb = call.rgb ? static_cast<T*>(call.rgb) + first * O : nullptr;
            for (Int i = 0; rgb && i < (last - first) * O; ++i)
                rgb[i] = samples.color[i] * T(1 + 2 * RGB_PADDING) - T(RGB_PADDING);
        });
    });
}

template <class T> void decode_backward(const Call& call) {
    const Planes planes = call.planes;
    const Decoder<T> decoder = decoder_of<T>(call);
    Gradients<T> gradients(call, planes);
    in_threads(call, [&](Int index) {
        Samples<T> samples(planes, decoder, SAMPLES_AT_ONCE);
        std::vector<int> list;
        share_out(call, index, SAMPLES_AT_ONCE, [&](Int first, Int last, Int item) {
            read_points(call, samples, list, first, last);
            std::copy_n(as<T>(call.d_sigma) + first, last - first, samples.d_sigma.begin());
            const T* d_rgb = call.rgb ? as<T>(call.d_rgb) + first * O : nullptr;
            for (Int i = 0; i < (last - first) * O; ++i) {
                const T y = samples.color[i];
                samples.color[i] = d_rgb ? d_rgb[i] * T(1 + 2 * RGB_PADDING) * y * (1 - y) : 0;
            }
            samples.backward(list, as<T>(call.w2) + H, as<T>(call.w1), gradients.planes(index, item), gradients.decoder(index));
        });
    });
    gradients.finish();
}

}  // namespace VARIANT
