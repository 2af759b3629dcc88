// One step of AdamW over parameters, its two moments kept in a byte each, in one pass over memory.
//
// In    jobs: addresses of a parameter's weights, gradient and moments, and the numbers of its step.
// Out   weights and moments, written in place, on so many threads (gradients must be finite); or what that would move.
// Run   through training/adamw_8bit.py, which says what a byte means.

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr int BLOCK = 256;                // elements that share an exponent
constexpr uint32_t FIRST_OCTAVES = 15;    // from the least to the greatest byte: sign, 4 bits of exponent, 3 of mantissa
constexpr uint32_t SECOND_OCTAVES = 31;   // 5 bits of exponent, 3 of mantissa
constexpr uint32_t DROPPED = 20;          // bits of a float's mantissa that a byte has no room for
constexpr uint32_t INFINITE = 255;        // exponent of a float that is no number

inline float as_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline uint32_t as_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float wide(float value) { return value; }
inline float wide(uint16_t bfloat16) { return as_float(uint32_t(bfloat16) << 16); }

inline void keep(float& place, float value, uint32_t) { place = value; }
inline void keep(uint16_t& place, float value, uint32_t noise) {
    place = uint16_t((as_bits(value) + (noise & 0xffff)) >> 16);
}

inline uint32_t larger(uint32_t one, uint32_t other) { return one > other ? one : other; }

// 32 random bits for an element of a block: neighbours, and the same element under another key, have nothing in common.
// Elements are spread by a stride, whose multiples within a block are known beforehand.
constexpr uint32_t STRIDE = 0x9e3779b9;
constexpr std::array<uint32_t, BLOCK> STRIDES = [] {
    std::array<uint32_t, BLOCK> multiples{};
    for (uint32_t i = 0; i < BLOCK; i++) multiples[i] = i * STRIDE;
    return multiples;
}();
inline uint32_t noise_of(int element, uint32_t of_block) {
    uint32_t bits = STRIDES[element] + of_block;
    bits = (bits ^ (bits >> 16)) * 0x7feb352du;
    return bits ^ (bits >> 15);
}

// Moments from their bytes, and the exponent that the block's share.
inline float mean_of(uint32_t code, uint32_t base) {
    const uint32_t magnitude = code & 0x7f, sign = (code & 0x80) << 24;
    return as_float(magnitude ? ((magnitude << DROPPED) + base) | sign : 0);
}
inline float square_of(uint32_t code, uint32_t base) { return as_float(code ? (code << DROPPED) + base : 0); }

// The exponent that `octaves` below the next power of two above `greatest` (bits of a float) reach.
inline uint32_t floor_of(uint32_t greatest, uint32_t octaves) {
    const uint32_t above = (greatest >> 23) + 1;
    return (above > INFINITE ? INFINITE : larger(above, octaves + 1)) - octaves;
}

}  // namespace

struct Step {
    uint32_t key;      // of this step and parameter
    float rate;     // times root(1 - beta2^step) / (1 - beta1^step): moments begin at zero
    float beta1, beta2;
    float epsilon;  // times root(1 - beta2^step)
    float shrink;      // 1 - rate * weight decay
    float scale;       // of the gradient, before all else
};

struct Job {
    void* weight;
    const void* gradient;
    uint8_t* first;
    uint8_t* second;
    uint8_t* first_floor;
    uint8_t* second_floor;
    int64_t count;
    int32_t weight_is_bfloat16, gradient_is_bfloat16;  // else float
    Step step;
};

namespace {

template <class Weight, class Gradient>
inline void update(const Job& job, int64_t start, int length) {
    Weight* __restrict weight = static_cast<Weight*>(job.weight) + start;
    const Gradient* __restrict gradient = static_cast<const Gradient*>(job.gradient) + start;
    uint8_t* __restrict first = job.first + start;
    uint8_t* __restrict second = job.second + start;
    uint8_t& first_floor = job.first_floor[start / BLOCK];
    uint8_t& second_floor = job.second_floor[start / BLOCK];
    const Step step = job.step;  // a copy, which no write below can change
    const uint32_t first_base = uint32_t(first_floor) << 23, second_base = uint32_t(second_floor) << 23;
    float mean[BLOCK], square[BLOCK];
    uint32_t greatest_mean = 0, greatest_square = 0;

    for (int i = 0; i < length; i++) {
        const float slope = step.scale * wide(gradient[i]);
        mean[i] = step.beta1 * mean_of(first[i], first_base) + (1 - step.beta1) * slope;
        square[i] = step.beta2 * square_of(second[i], second_base) + (1 - step.beta2) * slope * slope;
        greatest_mean = larger(greatest_mean, as_bits(mean[i]) & 0x7fffffff);
        greatest_square = larger(greatest_square, as_bits(square[i]));
    }

    first_floor = uint8_t(floor_of(greatest_mean, FIRST_OCTAVES));
    second_floor = uint8_t(floor_of(greatest_square, SECOND_OCTAVES));
    const uint32_t of_block = uint32_t(start) * STRIDE + step.key;
    const int32_t least = 1 << DROPPED;  // of a second moment: no mean is ever divided by nothing
    // Half of the last bit of noise, so that it is fair.
    const int32_t mean_base = (int32_t(first_floor) << 23) - 0x800, square_base = (int32_t(second_floor) << 23) - 0x800;
    for (int i = 0; i < length; i++) {
        const uint32_t noise = noise_of(i, of_block);
        const float moved = step.rate * mean[i] / (std::sqrt(square[i]) + step.epsilon);
        keep(weight[i], wide(weight[i]) * step.shrink - moved, noise);
        const uint32_t bits = as_bits(mean[i]);
        const int32_t above = int32_t((bits & 0x7fffffff) + ((noise >> 4) & 0xff000)) - mean_base;
        const int32_t over = int32_t(as_bits(square[i]) + ((noise >> 12) & 0xff000)) - square_base;
        first[i] = uint8_t((uint32_t(above > 0 ? above : 0) >> DROPPED) | ((bits >> 24) & 0x80));
        second[i] = uint8_t(uint32_t(over > least ? over : least) >> DROPPED);
    }
}

int length_of(const Job& job, int64_t start) { return int(std::min<int64_t>(BLOCK, job.count - start)); }
int64_t blocks_of(const Job& job) { return (job.count + BLOCK - 1) / BLOCK; }

void update(const Job& job, int64_t start) {
    auto length_is = [&](int length) {
        if (job.weight_is_bfloat16)
            job.gradient_is_bfloat16 ? update<uint16_t, uint16_t>(job, start, length)
                                     : update<uint16_t, float>(job, start, length);
        else
            job.gradient_is_bfloat16 ? update<float, uint16_t>(job, start, length)
                                     : update<float, float>(job, start, length);
    };
    const int length = length_of(job, start);
    length < BLOCK ? length_is(length) : length_is(BLOCK);
}

// Sums of squares: of the gradient, and of what the step would move the weights by at a rate of one.
struct Squares {
    float of_gradient, of_update;
};

// In lanes, each in its order, so that a processor may add them side by side.
inline float sum_of(const float (&values)[BLOCK]) {
    constexpr int LANES = 16;
    float lanes[LANES] = {}, sum = 0;
    for (int i = 0; i < BLOCK; i += LANES)
        for (int lane = 0; lane < LANES; lane++) lanes[lane] += values[i + lane];
    for (float lane : lanes) sum += lane;
    return sum;
}

template <class Gradient>
inline Squares measure_gradient(const Job& job, int64_t start, int length) {
    const Gradient* __restrict gradient = static_cast<const Gradient*>(job.gradient) + start;
    float slopes[BLOCK] = {};
    for (int i = 0; i < length; i++) slopes[i] = wide(gradient[i]) * wide(gradient[i]);
    return {sum_of(slopes), 0};
}

template <class Gradient>
inline Squares measure(const Job& job, int64_t start, int length) {
    const Gradient* __restrict gradient = static_cast<const Gradient*>(job.gradient) + start;
    const uint8_t* __restrict first = job.first + start;
    const uint8_t* __restrict second = job.second + start;
    const Step step = job.step;
    const uint32_t first_base = uint32_t(job.first_floor[start / BLOCK]) << 23;
    const uint32_t second_base = uint32_t(job.second_floor[start / BLOCK]) << 23;
    float slopes[BLOCK] = {}, moves[BLOCK] = {};
    for (int i = 0; i < length; i++) {
        const float raw = wide(gradient[i]), slope = step.scale * raw;
        const float mean = step.beta1 * mean_of(first[i], first_base) + (1 - step.beta1) * slope;
        const float square = step.beta2 * square_of(second[i], second_base) + (1 - step.beta2) * slope * slope;
        const float move = step.rate * mean;  // a sum's square lies above the squares' sum: no move is taken for less
        slopes[i] = raw * raw;
        moves[i] = move * move / (square + step.epsilon * step.epsilon);
    }
    return {sum_of(slopes), sum_of(moves)};
}

// Both sums; without moments the gradient's alone.
void measure_blocks(const Job* job, Squares* found, int64_t from, int64_t to) {
    const bool moves = job->first != nullptr, bfloat16 = job->gradient_is_bfloat16;
    const auto way = moves ? (bfloat16 ? measure<uint16_t> : measure<float>)
                           : (bfloat16 ? measure_gradient<uint16_t> : measure_gradient<float>);
    for (int64_t block = from; block < to; block++)
        found[block] = way(*job, block * BLOCK, length_of(*job, block * BLOCK));
}

// Blocks `from` to `to` (not included) of all jobs in a row.
void update_blocks(const Job* jobs, int64_t from, int64_t to) {
    for (int64_t before = 0; before < to; before += blocks_of(*jobs++))
        for (int64_t block = from > before ? from - before : 0; block < blocks_of(*jobs) && before + block < to; block++)
            update(*jobs, block * BLOCK);
}

}  // namespace

// `work(from, to)` for all of `blocks`, a part of them on each of so many threads: on torch's own, if they are there,
// since these keep their processors busy for a while after each product, waiting for the next.
template <class Work>
void share(int64_t blocks, int64_t threads, const Work& work) {
    struct Parts {
        const Work& work;
        int64_t blocks, threads;
        std::atomic<int64_t> taken{0};
        void take() {
            for (int64_t part; (part = taken++) < threads;) work(blocks * part / threads, blocks * (part + 1) / threads);
        }
    } parts{work, blocks, threads};
    using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
    static const Parallel of_openmp = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    if (threads > 1 && of_openmp != nullptr) {
        of_openmp([](void* given) { static_cast<Parts*>(given)->take(); }, &parts, unsigned(threads), 0);
        return;
    }
    std::vector<std::thread> others;
    for (int64_t i = 1; i < threads; i++) others.emplace_back([&parts] { parts.take(); });
    parts.take();
    for (std::thread& other : others) other.join();
}

extern "C" {

void adamw_8bit(const Job* jobs, int64_t count, int64_t threads) {
    int64_t blocks = 0;
    for (int64_t i = 0; i < count; i++) blocks += blocks_of(jobs[i]);
    share(blocks, threads, [=](int64_t from, int64_t to) { update_blocks(jobs, from, to); });
}

// `sums`: squares of the gradient, as it is, and of the update that `rate` makes of it; without moments, of the gradient
// alone. Nothing is written, and the order of the sums does not depend on the number of threads.
void adamw_8bit_measure(const Job* job, int64_t threads, double* sums) {
    std::vector<Squares> found(blocks_of(*job));
    Squares* const places = found.data();
    share(blocks_of(*job), threads, [=](int64_t from, int64_t to) { measure_blocks(job, places, from, to); });
    sums[0] = sums[1] = 0;
    for (const Squares& block : found) sums[0] += block.of_gradient, sums[1] += block.of_update;
}
}
