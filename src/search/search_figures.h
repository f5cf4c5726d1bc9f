// The figures of a search's page, each an HTML <figure> or pieces of one.
#pragma once

#include <string>

#include "search/search_report.h"

namespace vernier::search {

// Place of a candidate in the table of candidates: its colour (class "c0", "c1", ...) and marker
// are the same in every report.
size_t style_of(const Candidate* candidate);
// Short enough for a cell: "16", "8", "4"; "4a", "4b", ... where several candidates of the report
// share whole bits.
std::string mark_of(const SearchReport& report, const Candidate* candidate);
// What the marks and colours of cells mean.
std::string cell_legend(const SearchReport& report,
                        const std::vector<const Candidate*>& candidates);

// Predicted KL (logarithmic) against bits: the frontier, allocations, measurements.
std::string frontier_figure(const SearchReport& report);
// Predicted against measured KL, both logarithmic, with the diagonal. REQUIRES: comparisons.
std::string comparison_figure(const SearchReport& report);
// For each family a plot of loss (logarithmic, one scale for all) by layer and candidate.
std::string sensitivity_figures(const SearchReport& report);
// Families by layers: how much loss a saved bit brings, against the mean of the network.
std::string price_map(const SearchReport& report);
// Families by layers: what was chosen.
std::string allocation_map(const SearchReport& report, const ReportedAllocation& row);
// One bar: shares of weights by candidate.
std::string share_bar(const SearchReport& report, const std::vector<size_t>& groups,
                      const Assignment& assignment);

}  // namespace vernier::search
