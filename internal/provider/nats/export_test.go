package nats

// Break breaks the connection with the server, which comes back by itself.
func (f *Fabric) Break() error { return f.nc.ForceReconnect() }
