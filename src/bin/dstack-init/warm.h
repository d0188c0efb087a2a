// Work that can be done while dstack-guest waits for the network or for keys.
#pragma once

namespace dstack::init {

// Starts a child that inserts the modules of containers' networks and then reads the programs that will be
// needed into the page cache, when nothing else wants the processor. Nothing depends on it: what it has not
// done by then the kernel does when it is needed.
void start_warming();

}  // namespace dstack::init
