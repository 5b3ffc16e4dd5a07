// bias_act and upfirdn2d on the CPU. bias_act.py and upfirdn2d.py call the functions at the end by ctypes; nothing of PyTorch
// is needed to build them. The loops are plain, for compilers to turn into vector code: of several instruction sets, of which
// the best one runs.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

using Int = std::int64_t;

// Arrays are dense. Number i belongs to channel i / step % channels; without a bias there is one channel. The activation is
// v for v > 0, else alpha * v, or 0 if `cut`; a limit of NaN does not clamp.
struct BiasAct {
    Int is_double, threads, count, channels, step, cut, from_y;
    double alpha, gain, limit;
    const void *saved, *bias, *dy;  // x, or y if from_y; null for no bias, and for values instead of gradients
    void *out, *d_bias;             // like saved; [channels], or null
};

// Pictures [planes, height, width, unit] become [planes, out_height, out_width, unit]: NCHW has planes N * C of unit 1,
// channels_last planes N of unit C. The filter [taps_y, taps_x] is applied as it lies; if null, it is row[x] * column[y].
struct UpFirDn {
    Int is_double, threads, planes, unit, size[2], out_size[2], up[2], down[2], before[2], taps[2];  // y, x
    double gain;
    const void *x, *filter, *column, *row;
    void* out;
};

namespace {

constexpr Int ROW_LENGTH = 16384;       // numbers, at most, where they can be cut at will
constexpr Int MIXED_LENGTH = 512;       // numbers, at least, of a row of several channels
constexpr Int LENGTH_BEFORE_ROUNDING = 512, ROWS_BEFORE_ROUNDING = 64;  // that are added up in T before double takes over
constexpr Int WORTH_A_THREAD = 1 << 15; // numbers
constexpr Int ROW_BYTES = 32 << 10;      // of samples that wait between the two passes of a filter: they stay in cache

inline Int ceil_div(Int a, Int b) { return (a + b - 1) / b; }
inline Int floor_div(Int a, Int b) { return b == 1 ? a : a >= 0 ? a / b : -ceil_div(-a, b); }
inline Int remainder(Int a, Int b) { return a - floor_div(a, b) * b; }

inline Int threads_for(Int most, Int numbers) { return std::max<Int>(1, std::min(most, numbers / WORTH_A_THREAD)); }

// How bias_act's numbers are cut: into rows of one channel or, if `mixed`, into rows that hold all channels a few times over.
struct Rows {
    bool mixed;
    Int length, channel_length, per_channel, total, channels, all;

    Rows(const BiasAct& call) : mixed(call.channels > 1 && call.step == 1), channels(call.channels), all(call.count) {
        channel_length = mixed ? all : channels > 1 ? call.step : all;
        length = mixed ? channels * ceil_div(MIXED_LENGTH, channels) : std::min(channel_length, ROW_LENGTH);
        per_channel = ceil_div(channel_length, length);
        total = all / channel_length * per_channel;
    }
    Int begin(Int row) const { return row / per_channel * channel_length + row % per_channel * length; }
    Int count(Int row) const { return std::min(length, channel_length - row % per_channel * length); }
    Int channel(Int row) const { return row / per_channel % channels; }
};

// Where one axis of outputs [first, last) looks: at inputs [from, to), and, for each phase (outputs that lie `up` apart), at
// which tap begins and at which input.
struct Span {
    struct Phase {
        Int tap, input, count;
    };
    Int first, last, from, to;
    std::vector<Phase> phases;

    Span(Int first, Int last, Int up, Int down, Int before, Int taps) : first(first), last(last) {
        from = std::numeric_limits<Int>::max();
        to = std::numeric_limits<Int>::min();
        for (Int phase = 0; phase < std::min(up, last - first); ++phase) {
            const Int at = (first + phase) * down - before, tap = remainder(-at, up), input = (at + tap) / up;
            const Int count = ceil_div(last - first - phase, up), some = tap < taps ? ceil_div(taps - tap, up) : 0;
            phases.push_back({tap, input, count});
            from = std::min(from, input);
            to = std::max(to, input + (count - 1) * down + some);
        }
    }
};

// Along rows of outputs, so that a span looks at about so many samples.
inline std::vector<Span> spans_of(const UpFirDn& call, Int samples) {
    const Int up = call.up[1], down = call.down[1], width = call.out_size[1], least = 2 * call.taps[1];
    const Int block = std::max<Int>(1, std::max(samples, least) / down) * up;
    std::vector<Span> spans;
    for (Int first = 0; first < width; first += block)
        spans.emplace_back(first, std::min(first + block, width), up, down, call.before[1], call.taps[1]);
    return spans;
}

// A filter as a sum of terms column[y] * row[x]: one if its rows are multiples of one row, else one for each row of taps.
template <class T> struct Terms {
    std::vector<std::vector<T>> columns, rows;

    Terms(const UpFirDn& call) {
        const T* filter = (const T*)call.filter;
        const Int taps_y = call.taps[0], taps_x = call.taps[1];
        if (!filter) {
            add(call, (const T*)call.column, (const T*)call.row);
            return;
        }
        const auto smaller = [](T a, T b) { return std::abs(a) < std::abs(b); };
        const Int at = std::max_element(filter, filter + taps_y * taps_x, smaller) - filter;
        const T* row = filter + at / taps_x * taps_x;
        std::vector<T> column(taps_y);
        bool is_product = filter[at] != 0;
        for (Int i = 0; i < taps_y * taps_x && is_product; ++i) {
            if (i % taps_x == 0) column[i / taps_x] = filter[i + at % taps_x] / filter[at];
            const T error = column[i / taps_x] * row[i % taps_x] - filter[i];
            is_product = std::abs(error) <= 2 * std::numeric_limits<T>::epsilon() * std::abs(filter[i]);
        }
        if (is_product) add(call, column.data(), row);
        for (Int y = 0; y < taps_y && !is_product; ++y) {
            std::fill(column.begin(), column.end(), T(0));
            column[y] = 1;
            add(call, column.data(), filter + y * taps_x);
        }
    }

    void add(const UpFirDn& call, const T* column, const T* row) {
        columns.emplace_back(column, column + call.taps[0]);
        rows.emplace_back(row, row + call.taps[1]);
        for (T& tap : rows.back()) tap *= call.gain;
    }
};

#define VECTOR_CODE "ops_cpu.h"
#include "variants.h"

}  // namespace

// ---------------------------------------------------------------------------------------------- for ctypes

#define EXPORT(function, Call) \
    extern "C" void function(const Call& call, int variant) { \
        call.is_double ? BEST(variant, function<double>)(call) : BEST(variant, function<float>)(call); \
    }

EXPORT(bias_act, BiasAct)
EXPORT(upfirdn2d, UpFirDn)

extern "C" Int size_of_bias_act() { return sizeof(BiasAct); }
extern "C" Int size_of_upfirdn2d() { return sizeof(UpFirDn); }
