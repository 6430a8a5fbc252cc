// The loss that the K-FAC statistics predict for a choice, and the choices that are worth a look.
#pragma once

#include <vector>

#include "tools/compress/allocate.h"

namespace palu {

// Increase of the mean loss per token, nats, to second order: cutting ranks, coding what is kept,
// coding whole heads. They are apart because a search corrects them apart.
struct PredictedLoss {
  double cut = 0, coding = 0, dense_coding = 0;
};

// One way to store one projection of one layer.
struct Choice {
  ProjectionSpec spec;
  int64_t bytes = 0;  // of a token, scales included
  PredictedLoss predicted;
};

// One projection of one layer.
struct ChoiceList {
  int layer = 0;
  bool key = true;
  // Ordered by bytes. None has fewer bytes than another and less predicted loss of both kinds.
  std::vector<Choice> choices;
  // To learn by how the measured loss depends on the predicted one, most telling first; each has
  // one kind of loss.
  std::vector<Choice> probes;
};

// Every rank and format of the factors, and rotated dense storage. factors must be K-FAC weighted.
std::vector<ChoiceList> MakeChoices(F32Model* model, const Statistics& statistics,
                                    const FactorStore& factors,
                                    const std::vector<LatentFormat>& formats);

// Expected range of n draws of a normal distribution of variance 1.
double NormalRange(int n);

// Minimises the sum over lists of cost(list, choice) within bytes: exact, by dynamic programming
// over bytes. Returns the choice of every list. Throws CompressError with the arithmetic when even
// the smallest choices need more.
std::vector<int> Knapsack(const std::vector<std::vector<int64_t>>& bytes,
                          const std::vector<std::vector<double>>& cost, int64_t budget);

}  // namespace palu
