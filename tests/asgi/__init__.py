"""The ASGI side: exchanges between real connections and applications the tests hold in their hands."""
