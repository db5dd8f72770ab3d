// Package sim simulates downloads through the cluster: it runs the scheduler's
// own choice of sources in virtual time, with links that flows share fairly,
// and clients that behave as dfget does.
//
// What is simulated of a host is its link: both directions, their queues (a
// round trip over a full link takes longer), and nothing of its processor. The
// scheduler is on the host of the first CDN instance. Pulls are held, answered
// and given up as the scheduler's task package does it.
//
// A run is a single goroutine, and a seed repeats it.
package sim
