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

// Lower triangular l with l * l^T = m + damping * mean(diagonal): what whitens m, at a small part
// of the cost of a root. Throws CompressError as PsdRoots does.
MatrixD CholeskyFactor(const MatrixD& m, double damping, const std::string& name);

// m = p * q with p orthogonal: the left singular vectors and what remains, m's rows in their basis.
struct LeftSvd {
  VectorD s;   // [rows], descending
  MatrixD p;   // [rows, rows]
  MatrixD sq;  // p^T * m: [rows, cols], row i of norm s[i]
};

// From the eigenvectors of m * m^T, so meant for few rows; p * sq is m to rounding, whatever the
// condition. Throws CompressError when m is not finite or the iteration fails.
LeftSvd LeftSingularVectors(const MatrixD& m, const std::string& name);

}  // namespace palu
