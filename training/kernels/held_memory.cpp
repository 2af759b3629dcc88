// Memory of torch's tensors on the CPU, never more than the tensors alive at one time have needed.
//
// In    torch's requests for memory, once `held_memory_install` has been called.
// Out   memory, or torch's OutOfMemoryError; bytes in use, at rest, and at most in use.
// Run   through training/held_memory.py, which says why.
//
// A block that is freed rests until it is wanted again, or until resting would make the process larger than its tensors
// have been at their most; then the blocks that rested longest go back to the system.

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <list>
#include <map>
#include <mutex>
#include <unordered_map>

namespace {

constexpr size_t LEAST = size_t(1) << 17;  // smaller ones are the C library's, as in training/held_memory.py
constexpr size_t ALIGNMENT = 64;           // what torch's kernels expect

size_t in_pages(size_t bytes) {
    static const size_t page = size_t(sysconf(_SC_PAGESIZE));
    return (bytes + page - 1) / page * page;
}

[[noreturn]] void no_room_for(size_t bytes) {
    TORCH_CHECK_WITH(OutOfMemoryError, false, "can't allocate memory: the system has no room for ", bytes, " bytes");
    std::abort();  // never reached, which the compiler does not know
}

class HeldMemory {
   public:
    void* take(size_t bytes) {
        const std::lock_guard<std::mutex> guard(mutex_);
        bytes = in_pages(bytes);
        void* block = reuse(bytes);
        if (block == nullptr) {
            make_room(bytes);
            block = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (block == MAP_FAILED) no_room_for(bytes);
        }
        used_.emplace(block, bytes);
        live_ += bytes;
        most_ = std::max(most_, live_);
        recent_ = std::max(recent_, live_);
        return block;
    }

    // False when the block is not one of these.
    bool give(void* block) {
        const std::lock_guard<std::mutex> guard(mutex_);
        const auto found = used_.find(block);
        if (found == used_.end()) return false;
        const size_t bytes = found->second;
        used_.erase(found);
        live_ -= bytes;
        rest(block, bytes);
        return true;
    }

    void give_back_resting() {
        const std::lock_guard<std::mutex> guard(mutex_);
        while (!order_.empty()) give_back_oldest();
    }

    void figures(uint64_t* live, uint64_t* resting, uint64_t* most) {
        const std::lock_guard<std::mutex> guard(mutex_);
        *live = live_, *resting = resting_, *most = most_;
    }

    // As `figures`, but the most since this was last asked for.
    void take_recent(uint64_t* live, uint64_t* resting, uint64_t* most) {
        const std::lock_guard<std::mutex> guard(mutex_);
        *live = live_, *resting = resting_, *most = recent_;
        recent_ = live_;
    }

    // A process that forks must not leave its child a lock that nobody holds.
    void lock() { mutex_.lock(); }
    void unlock() { mutex_.unlock(); }

   private:
    struct Resting {
        char* block;
        size_t bytes;
    };
    using Order = std::list<Resting>;

    // The smallest resting block that is large enough; what is over goes on resting.
    void* reuse(size_t bytes) {
        const auto found = by_size_.lower_bound(bytes);
        if (found == by_size_.end()) return nullptr;
        const Resting taken = *found->second;
        order_.erase(found->second);
        by_size_.erase(found);
        resting_ -= taken.bytes;
        if (taken.bytes > bytes) rest(taken.block + bytes, taken.bytes - bytes);
        return taken.block;
    }

    void rest(void* block, size_t bytes) {
        order_.push_back({static_cast<char*>(block), bytes});
        by_size_.emplace(bytes, std::prev(order_.end()));
        resting_ += bytes;
    }

    // Gives back what rested longest, until `bytes` more leave the process no larger than it has been or must be.
    void make_room(size_t bytes) {
        const size_t allowed = std::max(most_, live_ + bytes);
        while (!order_.empty() && live_ + resting_ + bytes > allowed) give_back_oldest();
    }

    void give_back_oldest() {
        const Resting oldest = order_.front();
        const auto same = by_size_.equal_range(oldest.bytes);
        by_size_.erase(std::find_if(same.first, same.second, [&](auto& entry) { return entry.second == order_.begin(); }));
        order_.pop_front();
        resting_ -= oldest.bytes;
        munmap(oldest.block, oldest.bytes);
    }

    std::mutex mutex_;
    std::unordered_map<void*, size_t> used_;
    Order order_;  // by when they came to rest
    std::multimap<size_t, Order::iterator> by_size_;
    size_t live_ = 0, resting_ = 0, most_ = 0, recent_ = 0;
};

HeldMemory& held() {
    static HeldMemory* memory = new HeldMemory;  // never destroyed: tensors may outlive everything else
    return *memory;
}

void give_back(void* block) {
    if (block != nullptr && !held().give(block)) free(block);
}

class HeldAllocator final : public c10::Allocator {
   public:
    c10::DataPtr allocate(size_t bytes) override {
        void* block = nullptr;
        if (bytes >= LEAST) {
            block = held().take(bytes);
        } else if (bytes > 0 && posix_memalign(&block, ALIGNMENT, bytes) != 0) {
            no_room_for(bytes);
        }
        return {block, block, &give_back, c10::Device(c10::DeviceType::CPU)};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
    void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

}  // namespace

extern "C" {

void held_memory_install() {
    pthread_atfork([] { held().lock(); }, [] { held().unlock(); }, [] { held().unlock(); });
    c10::SetCPUAllocator(new HeldAllocator, 1);
}

void held_memory_give_back_resting() { held().give_back_resting(); }

void held_memory_figures(uint64_t* live, uint64_t* resting, uint64_t* most) { held().figures(live, resting, most); }

void held_memory_take_recent(uint64_t* live, uint64_t* resting, uint64_t* most) {
    held().take_recent(live, resting, most);
}
}
