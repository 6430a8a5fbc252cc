// Which layers share a block table.
#pragma once

#include <vector>

#include "engine/cache/block_demand.h"
#include "engine/cache/latent_layout.h"

namespace palu {

// Where every layer sees everything, or every layer slides, one group holds them all. Where both
// kinds are mixed (Gemma 3), they go into groups of about the same number of bytes, none of which
// has both kinds, so that blocks of one size, out of one pool, serve all groups: the largest group
// sets the size, and what a smaller one leaves of its blocks is lost. Of all such divisions the one
// whose sequences of `length` tokens take the fewest bytes is chosen; one group for all if that is
// no worse. Groups of layers that see everything come first. windows: of every layer, 0 for none;
// chunk_tokens: as in BlockDemand.
std::vector<LayerGroup> GroupLayers(const std::vector<LayerSpec>& layers,
                                    const std::vector<int>& windows, int block_tokens, int length,
                                    int chunk_tokens);

// A single group for all layers: its window is the largest if every layer has one, else 0.
LayerGroup OneGroup(const std::vector<int>& windows);

}  // namespace palu
