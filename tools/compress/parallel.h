// Independent pieces of work on all of the tools' threads.
#pragma once

#include <cstddef>
#include <functional>

namespace palu {

// Calls work(i) for every i < n. With enough pieces to fill the threads (BlasThreads()), each piece
// runs on one thread with a BLAS of one; otherwise one after the other, each with all threads in
// its BLAS. Rethrows the first exception. Results must not depend on the order. Not reentrant.
void ParallelFor(size_t n, const std::function<void(size_t)>& work);

}  // namespace palu
