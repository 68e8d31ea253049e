package session

// SetFailpoint has fn called at the named places of the manager's work.
func (o *Options) SetFailpoint(fn func(name string)) { o.failpoint = fn }
