// --volume NAME:VERITY_ROOT:TARGET (spec/host.md section 2.6).
#pragma once

#include <string_view>
#include <vector>

#include "app/app_compose.h"
#include "base/result.h"

namespace dstack::app {

// Code::bad_volume. The root is lower-cased.
base::Result<VerityVolume> parse_volume_spec(std::string_view text);
// The same rules for a volume that came another way (the manifest, the volume index).
base::Result<> check_volume(const VerityVolume& volume);
// Two volumes on one target are refused; one root twice is fine.
base::Result<> check_volume_targets(const std::vector<VerityVolume>& volumes);

}  // namespace dstack::app
