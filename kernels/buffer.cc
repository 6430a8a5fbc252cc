#include "kernels/buffer.h"

#include "kernels/backend.h"

namespace palu {

Buffer::~Buffer() {
  if (backend_ != nullptr && data_ != nullptr) backend_->Free(data_, bytes_);
}

}  // namespace palu
