// Dense decompositions with errors that say what is wrong with the statistics.
#pragma once

#include <stdexcept>
#include <string>

#include "tools/compress/matrix.h"

namespace palu {

// Bad input of a compression: one line for the user.
class CompressError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct EigenPairs {  // m = vectors * diag(values) * vectors^T
  VectorD values;    // ascending
  MatrixD vectors;   // columns
};

// m must be symmetric. Throws CompressError (name is used in the message) when it is not finite or
// the iteration fails.
EigenPairs SymmetricEigen(const MatrixD& m, const std::string& name);

struct Roots {
  MatrixD root, inverse_root;
};

// m^{1/2} and m^{-1/2} of a positive semi-definite matrix after adding damping * mean(diagonal) to
// its diagonal. Throws CompressError when m is not finite, zero, clearly indefinite, or still
// singular.
Roots PsdRoots(const MatrixD& m, double damping, const std::string& name);

struct Svd {   // m = u * diag(s) * vt, economy size
  MatrixD u;   // [rows, k]
  VectorD s;   // [k], descending
  MatrixD vt;  // [k, cols]
};

// Throws CompressError when m is not finite or the iteration fails.
Svd ThinSvd(const MatrixD& m, const std::string& name);

}  // namespace palu
