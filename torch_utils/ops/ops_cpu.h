// The loops of bias_act and upfirdn2d. variants.h includes this file once for each instruction set, with VARIANT (a
// namespace). T is float or double.

namespace VARIANT {

// ---------------------------------------------------------------------------------------------- bias_act

template <class T> struct Line {
    T alpha, gain, limit;
    bool cut, from_y;

    T unlimited(T v) const { return (v < 0 ? (cut ? T(0) : v * alpha) : v) * gain; }  // not v > 0: NaN goes on

    T value(T v) const {
        const T y = unlimited(v);
        return y > limit ? limit : y < -limit ? -limit : y;
    }

    // The gradient dy times the slope, where v is x + bias, or y. A y that lies on the limit counts as clamped.
    T slope(T v, T dy) const {
        const T d = dy * gain, passed = v > 0 ? d : cut ? T(0) : d * alpha;
        const T y = from_y ? v : unlimited(v), size = y < 0 ? -y : y;
        return (from_y ? size >= limit : size > limit) ? T(0) : passed;
    }
};

// `Bias` is one number for the row, or an array as long as it.
template <class T> inline T bias_at(T bias, Int) { return bias; }
template <class T> inline T bias_at(const T* bias, Int i) { return bias[i]; }

// Values, or gradients where there is a dy.
template <class T, class Bias>
inline void activate_row(const T* saved, Bias bias, const T* dy, Line<T> line, T* __restrict out, Int count) {
    if (!dy)
        for (Int i = 0; i < count; ++i) out[i] = line.value(saved[i] + bias_at(bias, i));
    else if (line.from_y)
        for (Int i = 0; i < count; ++i) out[i] = line.slope(saved[i], dy[i]);
    else
        for (Int i = 0; i < count; ++i) out[i] = line.slope(saved[i] + bias_at(bias, i), dy[i]);
}

template <class T> inline double sum_of(const T* x, Int count) {
    double all = 0;
    for (Int first = 0; first < count; first += LENGTH_BEFORE_ROUNDING) {
        T sum = 0;
#pragma omp simd reduction(+ : sum)
        for (Int i = first; i < std::min(first + LENGTH_BEFORE_ROUNDING, count); ++i) sum += x[i];
        all += sum;
    }
    return all;
}

// Rows [first, last); `totals` [channels] collects the sums of each channel, unless null.
template <class T> inline void activate(const BiasAct& call, const Rows& rows, Int first, Int last, double* totals) {
    const Line<T> line{T(call.alpha), T(call.gain), T(call.limit), call.cut != 0, call.from_y != 0};
    const T *saved = (const T*)call.saved, *dy = (const T*)call.dy, *bias = (const T*)call.bias;
    T* out = (T*)call.out;
    std::vector<T> biases(rows.mixed ? rows.length : 0), sums(biases);
    for (Int i = 0; i < (Int)biases.size() && bias; ++i) biases[i] = bias[i % call.channels];
    for (Int row = first; row < last; ++row) {
        const Int begin = rows.begin(row), count = rows.count(row), channel = rows.channel(row);
        const T* row_dy = dy ? dy + begin : nullptr;
        if (!rows.mixed) {
            activate_row(saved + begin, bias ? bias[channel] : T(0), row_dy, line, out + begin, count);
            if (totals) totals[channel] += sum_of(out + begin, count);
            continue;
        }
        activate_row(saved + begin, (const T*)biases.data(), row_dy, line, out + begin, count);
        if (!totals) continue;
        T* __restrict partial = sums.data();
        for (Int i = 0; i < count; ++i) partial[i] += out[begin + i];
        if ((row - first) % ROWS_BEFORE_ROUNDING == 0 || row == last - 1)
            for (Int i = 0; i < rows.length; ++i) totals[i % call.channels] += partial[i], partial[i] = 0;
    }
}

template <class T> void bias_act(const BiasAct& call) {
    const Rows rows(call);
    const Int threads = threads_for(call.threads, call.count);
    std::vector<double> totals(call.d_bias ? threads * call.channels : 0);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (Int part = 0; part < threads; ++part)
        activate<T>(call, rows, rows.total * part / threads, rows.total * (part + 1) / threads,
                    call.d_bias ? totals.data() + part * call.channels : nullptr);
    for (Int channel = 0; channel < call.channels && call.d_bias; ++channel) {
        double sum = 0;
        for (Int part = 0; part < threads; ++part) sum += totals[part * call.channels + channel];
        ((T*)call.d_bias)[channel] = T(sum);
    }
}

// ---------------------------------------------------------------------------------------------- upfirdn2d

// out[i] = sum of taps[t] * from[t][i], added to what is there if ADDS.
template <int TAPS, bool ADDS, class T>
inline void combine_few(const T* const* from, const T* taps, T* __restrict out, Int count) {
    const T* rows[TAPS];
    T factors[TAPS];
    for (int t = 0; t < TAPS; ++t) rows[t] = from[t], factors[t] = taps[t];
    for (Int i = 0; i < count; ++i) {
        T sum = ADDS ? out[i] : T(0);
        for (int t = 0; t < TAPS; ++t) sum += factors[t] * rows[t][i];
        out[i] = sum;
    }
}

template <bool ADDS, class T>
inline void combine_up_to_four(const T* const* from, const T* taps, Int many, T* out, Int count) {
    if (many == 1) combine_few<1, ADDS>(from, taps, out, count);
    else if (many == 2) combine_few<2, ADDS>(from, taps, out, count);
    else if (many == 3) combine_few<3, ADDS>(from, taps, out, count);
    else combine_few<4, ADDS>(from, taps, out, count);
}

template <class T> void combine(const T* const* from, const T* taps, Int many, T* out, Int count, bool adds) {
    if (many == 0 && !adds) std::fill(out, out + count, T(0));
    for (Int done = 0; done < many; done += 4) {
        const Int few = std::min<Int>(many - done, 4);
        if (adds || done > 0) combine_up_to_four<true>(from + done, taps + done, few, out, count);
        else combine_up_to_four<false>(from + done, taps + done, few, out, count);
    }
}

// parts[p][j] = x[factor * j + p], of units, for all that are there. A part is `stride` numbers long.
template <class T> inline void split(const T* x, Int factor, Int count, Int unit, T* __restrict parts, Int stride) {
    if (unit == 1 && factor == 2) {
        for (Int j = 0; j < count / 2; ++j) parts[j] = x[2 * j], parts[stride + j] = x[2 * j + 1];
        if (count % 2) parts[count / 2] = x[count - 1];
        return;
    }
    for (Int i = 0; i < count; ++i) std::copy_n(x + i * unit, unit, parts + i % factor * stride + i / factor * unit);
}

// The reverse.
template <class T> inline void interleave(const T* parts, Int stride, Int factor, Int count, Int unit, T* __restrict x) {
    if (unit == 1 && factor == 2) {
        for (Int j = 0; j < count / 2; ++j) x[2 * j] = parts[j], x[2 * j + 1] = parts[stride + j];
        if (count % 2) x[count - 1] = parts[count / 2];
        return;
    }
    for (Int i = 0; i < count; ++i) std::copy_n(parts + i % factor * stride + i / factor * unit, unit, x + i * unit);
}

// What a thread needs to filter rows: samples under a row of outputs, those apart by `down`, outputs apart by `up`, and, made
// once for a span, what each phase of a row adds up: its rows begin at `from`, and `taps` has, term by term, its factors.
template <class T> struct Bench {
    std::vector<T> samples, parts, lines, taps, column;
    std::vector<const T*> from, rows;
    std::vector<Int> begins;  // of each phase in `from`
    Int part = 0, line = 0;

    Bench(const UpFirDn& call) : column(call.taps[0]), rows(call.taps[0]) {}

    void fit(const UpFirDn& call, const Terms<T>& terms, const Span& span) {
        const Int many = std::max<Int>(span.to - span.from, 0), up = call.up[1], down = call.down[1];
        part = ceil_div(many, down) * call.unit;
        line = ceil_div(span.last - span.first, up) * call.unit;
        samples.assign(many * call.unit, T(0));  // zeros beside the picture stay
        parts.resize(down > 1 ? part * down : 0);
        lines.resize(up > 1 ? line * up : 0);
        const T* base = down > 1 ? parts.data() : samples.data();
        from.clear();
        taps.clear();
        begins.assign(1, 0);
        for (const Span::Phase& phase : span.phases) {
            for (Int tap = phase.tap, at = phase.input - span.from; tap < call.taps[1]; tap += up, ++at)
                from.push_back(base + at % down * part + at / down * call.unit);
            begins.push_back(from.size());
        }
        for (const std::vector<T>& row : terms.rows)
            for (const Span::Phase& phase : span.phases)
                for (Int tap = phase.tap; tap < call.taps[1]; tap += up) taps.push_back(row[tap]);
    }
};

// Samples under row y of outputs, filtered down the columns by one term. False where that is all zeros.
template <class T>
inline bool filter_columns(const UpFirDn& call, const std::vector<T>& column, const Span& span, const T* x, Int y,
                           Bench<T>& bench) {
    const Int up = call.up[0], top = y * call.down[0] - call.before[0], width = call.size[1], first = remainder(-top, up);
    const Int begin = std::max<Int>(span.from, 0), count = (std::min(span.to, width) - begin) * call.unit;
    Int many = 0, row = floor_div(top + first, up);
    for (Int tap = first; tap < call.taps[0] && count > 0; tap += up, ++row) {
        if (row < 0 || row >= call.size[0] || column[tap] == 0) continue;
        bench.column[many] = column[tap];
        bench.rows[many++] = x + (row * width + begin) * call.unit;
    }
    if (many == 0) return false;
    combine(bench.rows.data(), bench.column.data(), many, bench.samples.data() + (begin - span.from) * call.unit, count, false);
    return true;
}

// Row y of outputs, of the columns of a span: down the columns first, then along the row, for each term of the filter.
template <class T>
inline void filter_row(const UpFirDn& call, const Terms<T>& terms, const Span& span, const T* x, Int y, T* out,
                       Bench<T>& bench) {
    const Int up = call.up[1], down = call.down[1], unit = call.unit, columns = span.last - span.first;
    T* result = up == 1 ? out : bench.lines.data();
    bool adds = false;
    for (std::size_t term = 0; term < terms.rows.size(); ++term) {
        if (!filter_columns(call, terms.columns[term], span, x, y, bench)) continue;
        if (down > 1) split(bench.samples.data(), down, span.to - span.from, unit, bench.parts.data(), bench.part);
        const T* taps = bench.taps.data() + term * bench.from.size();
        for (std::size_t p = 0; p < span.phases.size(); ++p) {
            const Int begin = bench.begins[p], many = bench.begins[p + 1] - begin;
            combine(bench.from.data() + begin, taps + begin, many, result + p * bench.line, span.phases[p].count * unit, adds);
        }
        adds = true;
    }
    if (!adds) std::fill(out, out + columns * unit, T(0));
    else if (up > 1) interleave(result, bench.line, up, columns, unit, out);
}

// Tasks, block of columns by block, are strips of rows of a plane.
template <class T> void upfirdn2d(const UpFirDn& call) {
    const Terms<T> terms(call);
    const std::vector<Span> spans = spans_of(call, ROW_BYTES / (call.unit * sizeof(T)));
    const Int height = call.out_size[0], width = call.out_size[1], unit = call.unit;
    const Int threads = threads_for(call.threads, call.planes * height * width * unit);
    const Int strips = threads == 1 ? 1 : std::min(height, ceil_div(4 * threads, call.planes)), each = call.planes * strips;
    const Int tasks = each * spans.size();
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (Int part = 0; part < threads; ++part) {
        Bench<T> bench(call);
        const Int first = tasks * part / threads, last = tasks * (part + 1) / threads;
        for (Int task = first; task < last; ++task) {
            const Span& span = spans[task / each];
            const Int plane = task % each / strips, strip = task % strips;
            if (task == first || task % each == 0) bench.fit(call, terms, span);
            const T* x = (const T*)call.x + plane * call.size[0] * call.size[1] * unit;
            T* out = (T*)call.out + (plane * height * width + span.first) * unit;
            for (Int y = height * strip / strips; y < height * (strip + 1) / strips; ++y)
                filter_row(call, terms, span, x, y, out + y * width * unit, bench);
        }
    }
}

}  // namespace VARIANT
