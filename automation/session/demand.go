package session

import "time"

// demand are the numbers that decide how many more sessions are opened for a queue.
type demand struct {
	waiting int           // requests in the queue
	unpaid  int           // of these, requests that may have a session opened for them
	live    int           // open sessions of the pool, in use or idle
	idle    int           // of these, idle sessions
	opening int           // opens under way for the pool
	ending  int           // sessions in use that this replica is about to release
	hold    time.Duration // how long a request typically holds a session
	open    time.Duration // how long an open typically takes
	stalled time.Duration // how long no request of the queue was served and no open ended
}

// opens returns how many sessions are worth their price. The first session of a pool
// always is. Another one is worth it if the last request of the queue would wait longer
// for its turn than for an open, or if the queue has already been stalled for that long.
func (d demand) opens() int {
	n := 0
	for n < d.unpaid {
		unserved := d.waiting - d.idle - d.ending - d.opening - n // requests that get none of these sessions first
		sessions := d.live + d.opening + n
		if unserved <= 0 {
			break
		}
		stalled := n == 0 && d.opening == 0 && d.stalled >= d.open
		if sessions > 0 && !stalled && time.Duration(unserved)*d.hold/time.Duration(sessions) <= d.open {
			break
		}
		n++
	}
	return n
}

// guessedOpen is the assumed duration of an open until one has been measured.
const guessedOpen = 5 * time.Second

// typicalCall returns how long the node has lately needed for an open.
func (m *Manager) typicalCall() time.Duration {
	if d := m.calls.load(); d > 0 {
		return d
	}
	return guessedOpen
}

// typicalOpen returns how long opens have lately taken, with the wait for the wallet.
func (m *Manager) typicalOpen() time.Duration {
	if d := m.opens.load(); d > 0 {
		return d
	}
	return guessedOpen
}
